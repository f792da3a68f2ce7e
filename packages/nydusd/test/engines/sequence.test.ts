import { expect, test } from "vitest";
import { SequenceTracker } from "../../src/engines/fuse/sequence.ts";

const mib = 1 << 20;

test("a read of what was fetched ahead goes on with its run, and all between counts as read", () => {
  const runs = new SequenceTracker();
  expect(runs.note(0, 4 * mib)).toBe(0);
  // Half of 8 MiB, and the rest of the chunk before.
  expect(runs.noteReadOn(9 * mib, 10 * mib)).toBe(4 * mib);
  expect(runs.note(11 * mib, 12 * mib)).toBe(10 * mib);
  expect(runs.note(12 * mib, 13 * mib)).toBe(11 * mib);
});

test("a read elsewhere is no run, whoever tells it", () => {
  const runs = new SequenceTracker();
  runs.note(0, 4 * mib);
  expect(runs.noteReadOn(40 * mib, 41 * mib)).toBe(0);
  expect(runs.note(41 * mib, 42 * mib)).toBe(mib);
});
