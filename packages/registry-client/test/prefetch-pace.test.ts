import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { DemandWatch } from "../src/http/demand-watch.ts";
import { PrefetchPace } from "../src/http/prefetch-pace.ts";
import { HostTraffic } from "../src/http/traffic.ts";
import { DEMAND_IDLE_MS, PREFETCH_TURN_MS } from "../src/limits.ts";
import { bytes, CALL, client, registry } from "./helpers.ts";

const never = new AbortController().signal;
const longMs = 1_000_000;

describe("the turns of prefetch bodies", () => {
  beforeEach(() => void vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "setInterval", "clearInterval", "performance"] }));
  afterEach(() => void vi.useRealTimers());

  function setup() {
    const demand = new DemandWatch();
    const pace = new PrefetchPace(demand);
    const turns: string[] = [];
    /** A body that reads `pieces` and asks before each but the first. */
    const body = async (name: string, pieces: number): Promise<void> => {
      const number = pace.join();
      for (let piece = 0; piece < pieces; piece++) {
        await pace.turn(number, longMs, never, undefined);
        turns.push(name);
      }
    };
    return { demand, pace, turns, body };
  }

  test("are free while no reader waits", async () => {
    const { turns, body } = setup();
    await Promise.all([body("a", 3), body("b", 3)]);
    expect(turns.length).toBe(6);
  });

  test("come to one body at a time, the oldest, and seldom, beside readers without a pause", async () => {
    const { demand, turns, body } = setup();
    const reader = demand.enter();
    void body("a", 3);
    void body("b", 9);
    await vi.advanceTimersByTimeAsync(5 * PREFETCH_TURN_MS);
    expect(turns.join("")).toMatch(/^aaabb?$/);
    reader();
  });

  test("are not given back by the moment between two reads", async () => {
    const { demand, turns, body } = setup();
    demand.enter()();
    void body("a", 1);
    for (let read = 0; read < 5; read++) {
      await vi.advanceTimersByTimeAsync(1);
      const end = demand.enter();
      await vi.advanceTimersByTimeAsync(DEMAND_IDLE_MS / 4);
      end();
    }
    // One seldom turn at most.
    expect(turns.length).toBeLessThanOrEqual(1);
  });

  test("begin again one by one, twice as many each time, when readers have paused", async () => {
    const { demand, turns } = setup();
    const pace = new PrefetchPace(demand);
    demand.enter()();
    for (let index = 0; index < 7; index++) void pace.turn(pace.join(), longMs, never, undefined).then(() => turns.push(String(index)));
    const counts: number[] = [];
    for (let tick = 0; tick < 4; tick++) {
      await vi.advanceTimersByTimeAsync(DEMAND_IDLE_MS);
      counts.push(turns.length);
    }
    expect(counts).toEqual([1, 3, 7, 7]);
    expect(vi.getTimerCount()).toBe(0);
  });

  test("are had at once by a body that is demanded, one that is ended, and one that has rested long enough", async () => {
    const { demand, pace } = setup();
    demand.enter();
    const [demanded, ended] = [new AbortController(), new AbortController()];
    const [first, second] = [
      pace.turn(pace.join(), longMs, never, demanded.signal),
      pace.turn(pace.join(), longMs, ended.signal, undefined),
    ];
    demanded.abort();
    ended.abort();
    await Promise.all([first, second]);
    expect(await pace.turn(pace.join(), 0, never, undefined)).toBe(0);
    const rested = pace.turn(pace.join(), 7, never, undefined);
    await vi.advanceTimersByTimeAsync(7);
    expect(await rested).toBe(7);
  });
});

describe("the connections of prefetch", () => {
  test("are its own, and what they receive ahead is limited; readers and what they want soon keep theirs as they are", async () => {
    const server = await registry();
    const blob = bytes(100_000);
    const { digest } = server.putBlob(blob);
    const limited: number[] = [];
    const traffic = new HostTraffic({ limitReceived: (socket) => limited.push(socket.localPort as number) });
    const one = client({ host: server.host, traffic });
    const read = (priority: "demand" | "ahead" | "prefetch"): Promise<Uint8Array> =>
      one.readRange("a/b", digest, { offset: 0, length: 100_000 }, { ...CALL, priority });
    await read("demand");
    await read("ahead");
    expect(limited).toEqual([]);
    expect(Buffer.compare(await read("prefetch"), blob)).toBe(0);
    expect(limited.length).toBe(1);
    await read("ahead");
    await read("demand");
    expect(limited.length).toBe(1);
  });
});
