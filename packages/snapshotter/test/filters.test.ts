import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { SnapshotterError } from "../src/errors.ts";
import { compileFilters } from "../src/service/filters.ts";

const object: Record<string, string> = {
  kind: "active",
  name: "ns/1/a b",
  "labels.containerd.io/snapshot.ref": "sha256:x",
  "labels.a.b": "dots",
};
const matches = (...filters: string[]) => compileFilters(filters)((path) => object[path.join(".")]);

describe("a List filter", () => {
  test.for([
    [[], true],
    [[""], true],
    [["  "], true],
    [["kind==active"], true],
    [["kind == active , name~=a"], true],
    [["kind==view"], false],
    [["kind==view", "kind==active"], true],
    [["kind==active,kind==view"], false],
    [["kind!=view"], true],
    [["absent"], false],
    [["absent!=x"], true],
    [["name"], true],
    [['name=="ns/1/a b"'], true],
    [['labels."containerd.io/snapshot.ref"==sha256:x'], true],
    [["labels.a.b==dots"], true],
    [["name~=/ns\\/1/"], true],
    [["name~=|a b$|"], true],
    [["name~=^b"], false],
    [["name~=("], false],
    [["absent~=^$"], true],
    [['name=="ns\\x2f1/a\\u0020b"'], true],
    [['name=="ns\\0571/a\\U00000020b"'], true],
  ] as const)("%j matches: %s", ([filters, expected]) => {
    expect(matches(...filters)).toBe(expected);
  });

  test.for([
    "kind=",
    "kind==",
    "==x",
    "kind==a kind",
    ",",
    "kind==a,",
    'name=="open',
    'name=="\\q"',
    'name=="\\x1"',
    'name=="\\U99999999"',
    "a..b",
    "name~=/x",
    "k=>v",
  ])("%j is a syntax error with its position", (text) => {
    expect(() => compileFilters([text])).toThrow(
      expect.objectContaining({ code: "FILTER_SYNTAX", message: expect.stringMatching(/at character \d+/) }),
    );
  });

  test("any quoted value is found again, whatever it holds", () => {
    const quoted = (text: string) => `"${[...text].map((char) => `\\U${char.codePointAt(0)?.toString(16).padStart(8, "0")}`).join("")}"`;
    fc.assert(fc.property(fc.string({ unit: "grapheme" }), (value) => compileFilters([`name==${quoted(value)}`])(() => value)));
  });

  test("any text either compiles or is FILTER_SYNTAX", () => {
    fc.assert(
      fc.property(fc.string(), (text) => {
        try {
          compileFilters([text])(() => "x");
          return true;
        } catch (error) {
          return error instanceof SnapshotterError && error.code === "FILTER_SYNTAX";
        }
      }),
    );
  });
});
