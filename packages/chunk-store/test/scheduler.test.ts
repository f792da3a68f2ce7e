import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import type { FetchClass } from "../src/fetch-class.ts";
import { demandIdleMs, prefetchInFlightMax, prefetchStarvedMs } from "../src/limits.ts";
import { FetchScheduler } from "../src/scheduler.ts";

beforeEach(() => void vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "setImmediate", "clearImmediate", "performance"] }));
afterEach(() => void vi.useRealTimers());

/** One blob with requests without end of the wanted classes; each runs until it is ended. */
function setup() {
  const scheduler = new FetchScheduler();
  const waiting: Record<FetchClass, number> = { demand: 0, ahead: 0, prefetch: Number.POSITIVE_INFINITY };
  const running: Record<FetchClass, (() => void)[]> = { demand: [], ahead: [], prefetch: [] };
  scheduler.add({
    has: (kind) => waiting[kind] > 0,
    take: (kind) => {
      waiting[kind]--;
      return { bytes: 1, run: () => new Promise((resolve) => running[kind].push(resolve)) };
    },
  });
  const demand = async (): Promise<void> => {
    waiting.demand++;
    scheduler.poke();
    await vi.advanceTimersByTimeAsync(0);
  };
  const end = async (kind: FetchClass): Promise<void> => {
    running[kind].shift()?.();
    await vi.advanceTimersByTimeAsync(0);
  };
  return { scheduler, running, demand, end };
}

describe("requests of prefetch", () => {
  test("all go out while nobody has read", async () => {
    const { scheduler, running } = setup();
    scheduler.poke();
    await vi.advanceTimersByTimeAsync(0);
    expect(running.prefetch.length).toBe(prefetchInFlightMax);
  });

  test("begin with one when readers have paused, and become more while they pause on", async () => {
    const { running, demand, end } = setup();
    await demand();
    await end("demand");
    const counts = [running.prefetch.length];
    for (let tick = 0; tick < 4; tick++) {
      await vi.advanceTimersByTimeAsync(demandIdleMs);
      counts.push(running.prefetch.length);
    }
    // One goes out beside the read, as none has ever been.
    expect(counts[0]).toBeLessThanOrEqual(1);
    expect(counts.slice(1)).toEqual([1, 2, 4, prefetchInFlightMax]);
  });

  test("go out one a second beside readers without a pause, and never two at a time", async () => {
    const { running, demand, end } = setup();
    await demand();
    let sent = 0;
    for (let elapsedMs = 0; elapsedMs < 5 * prefetchStarvedMs; elapsedMs += demandIdleMs / 4) {
      await demand();
      await end("demand");
      await vi.advanceTimersByTimeAsync(demandIdleMs / 4);
      expect(running.prefetch.length).toBeLessThanOrEqual(1);
      if (running.prefetch.length === 1) {
        sent++;
        await end("prefetch");
      }
    }
    expect(sent).toBeGreaterThanOrEqual(4);
    expect(sent).toBeLessThanOrEqual(6);
  });
});
