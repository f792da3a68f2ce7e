import { expect, test } from "vitest";
import { layout } from "../src/index.ts";

test("a table gives the offset of each field and the size of the record", () => {
  const record = layout("pair", 8, [
    ["first", 0, "u16"],
    ["padding", 2, 2],
    ["second", 4, "u32"],
  ]);
  expect(record).toEqual({ first: 0, padding: 2, second: 4, recordSize: 8 });
});

test.each([
  ["a hole", 8, [["a", 0, "u16"] as const, ["b", 4, "u32"] as const]],
  ["an overlap", 6, [["a", 0, "u32"] as const, ["b", 2, "u32"] as const]],
  ["a field past the end", 4, [["a", 0, "u64"] as const]],
  ["fields that end early", 16, [["a", 0, "i64"] as const]],
  ["a name that stands twice", 2, [["a", 0, "u8"] as const, ["a", 1, "u8"] as const]],
])("a table with %s fails when its module loads", (_, size, fields) => {
  expect(() => layout("bad", size, fields)).toThrow("bad");
});
