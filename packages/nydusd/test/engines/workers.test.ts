import { expect, test } from "vitest";
import { roleOf } from "../../src/engines/fuse/workers.ts";

test("each processor has a worker that stays there, those beyond are stand-ins; fewer workers than processors go anywhere", () => {
  const roles = (count: number, processors: readonly number[]) =>
    Array.from({ length: count }, (_, index) => roleOf(index, count, processors));
  expect(roles(4, [2, 5])).toEqual([
    { processor: 2, standIn: false },
    { processor: 5, standIn: false },
    { processor: undefined, standIn: true },
    { processor: undefined, standIn: true },
  ]);
  expect(roles(2, [2, 5]).some(({ standIn }) => standIn)).toBe(false);
  expect(roles(2, [0, 1, 2])).toEqual(new Array(2).fill({ processor: undefined, standIn: false }));
});
