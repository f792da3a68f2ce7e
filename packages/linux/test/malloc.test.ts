import { expect, test } from "vitest";
import { tuneMalloc } from "../src/index.ts";

test("the C library of this process takes the settings", () => {
  expect(tuneMalloc({ mmapThresholdBytes: 64 * 1024, arenasMax: 1 })).toBe(true);
});
