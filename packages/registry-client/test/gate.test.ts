import { describe, expect, test } from "vitest";
import { Gate } from "../src/http/gate.ts";
import { HostTraffic } from "../src/http/traffic.ts";
import { bytes, CALL, client, registry } from "./helpers.ts";
import { PREFETCH_REQUESTS_PER_HOST_MAX, REQUESTS_PER_HOST_MAX, REQUESTS_PER_HOST_MIN, SPEED_UP_MS } from "../src/limits.ts";

const never = new AbortController().signal;

function setup() {
  let now = 0;
  const gate = new Gate({ now: () => now });
  const entered: string[] = [];
  const enter = (priority: "demand" | "prefetch", name: string = priority): Promise<() => void> =>
    gate.acquire(priority, never).then((release) => {
      entered.push(name);
      return release;
    });
  const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
  const pass = (ms: number): void => {
    now += ms;
  };
  return { gate, entered, enter, turn, pass };
}

describe("the places of a host", () => {
  test("prefetch that wants all of them gets its share, and demand finds the rest free", async () => {
    const { gate, entered, enter, turn } = setup();
    for (let index = 0; index < 100; index++) void enter("prefetch");
    await turn();
    expect(gate.active).toBe(PREFETCH_REQUESTS_PER_HOST_MAX);
    for (let index = 0; index < REQUESTS_PER_HOST_MAX - PREFETCH_REQUESTS_PER_HOST_MAX; index++) await enter("demand");
    expect(entered.filter((name) => name === "demand")).toHaveLength(REQUESTS_PER_HOST_MAX - PREFETCH_REQUESTS_PER_HOST_MAX);
  });

  test("a place that becomes free goes to demand, however long prefetch has waited", async () => {
    const { entered, enter, turn } = setup();
    const releases = await Promise.all(Array.from({ length: REQUESTS_PER_HOST_MAX }, () => enter("demand", "first")));
    void enter("prefetch");
    void enter("demand", "late");
    releases[0]!();
    await turn();
    expect(entered.at(-1)).toBe("late");
  });

  test("a burst of 429 halves them once, repeated bursts never below the minimum, and quiet time gives them back", () => {
    const { gate, pass } = setup();
    for (let index = 0; index < 20; index++) gate.slowDown();
    expect([gate.places, gate.prefetchShare]).toEqual([REQUESTS_PER_HOST_MAX / 2, PREFETCH_REQUESTS_PER_HOST_MAX / 2]);
    for (let index = 0; index < 20; index++) {
      pass(2_000);
      gate.slowDown();
    }
    expect([gate.places, gate.prefetchShare]).toEqual([REQUESTS_PER_HOST_MIN, 1]);
    pass(SPEED_UP_MS * REQUESTS_PER_HOST_MAX);
    void gate.acquire("demand", never);
    expect([gate.places, gate.prefetchShare]).toEqual([REQUESTS_PER_HOST_MAX, PREFETCH_REQUESTS_PER_HOST_MAX]);
  });

  test("after a 429 prefetch rests as long as the host said, then goes on by itself; demand goes on at once", async () => {
    const { gate, entered, enter, turn, pass } = setup();
    gate.slowDown(20);
    const waiting = enter("prefetch");
    await enter("demand");
    await turn();
    expect(entered).toEqual(["demand"]);
    pass(20);
    await waiting;
    expect(entered).toEqual(["demand", "prefetch"]);
  });
});

describe("prefetch that somebody begins to wait for", () => {
  test("leaves the line of prefetch, also while prefetch rests", async () => {
    const gate = new Gate();
    gate.slowDown(60_000);
    const demanded = new AbortController();
    const waiting = gate.acquire("prefetch", never, demanded.signal);
    expect(gate.queued).toBe(1);
    demanded.abort();
    const release = await waiting;
    expect([gate.active, gate.queued]).toEqual([1, 0]);
    release();
    // Already demanded when it comes: it does not even queue.
    (await gate.acquire("prefetch", never, demanded.signal))();
    expect(gate.active).toBe(0);
  });
});

describe("the body of a prefetch request", () => {
  test("rests while anybody waits for a request, at whichever host, and goes on when nobody does", async () => {
    const [server, other] = [await registry(), await registry()];
    const blob = bytes(1_000_000);
    const { digest } = server.putBlob(blob);
    other.putBlob(blob);
    const traffic = new HostTraffic();
    const [background, reader] = [client({ host: server.host, traffic }), client({ host: other.host, traffic })];
    const [held, answer] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    const hold = (): Promise<void> => {
      held.resolve();
      return answer.promise;
    };
    other.faults.add({ path: /blobs/ }, { hold });
    const order: string[] = [];
    const range = { offset: 0, length: blob.length };
    const read = reader.readRange("a/b", digest, range, CALL).then(() => order.push("read"));
    await held.promise;
    const prefetch = background.readRange("a/b", digest, range, { ...CALL, priority: "prefetch" }).then(() => order.push("prefetch"));
    // Prefetch has its whole answer under way when another whole answer has come and gone over the same server.
    await expect.poll(() => server.counters.blobBytes).toBe(blob.length);
    await fetch(`http://${server.host}/v2/a/b/blobs/${digest}`).then((response) => response.arrayBuffer());
    expect(order).toEqual([]);
    answer.resolve();
    await Promise.all([read, prefetch]);
    expect(order).toEqual(["read", "prefetch"]);
  });

  test("does not rest once it is demanded itself", async () => {
    const server = await registry();
    const blob = bytes(1_000_000);
    const { digest } = server.putBlob(blob);
    const traffic = new HostTraffic();
    const somebody = traffic.demand.enter();
    const demanded = new AbortController();
    const range = { offset: 0, length: blob.length };
    const options = { deadlineMs: 4_000, priority: "prefetch", demanded: demanded.signal } as const;
    const waiting = client({ host: server.host, traffic }).readRange("a/b", digest, range, options);
    await expect.poll(() => server.counters.blobBytes).toBe(blob.length);
    demanded.abort();
    expect(await waiting).toEqual(blob);
    somebody();
  });
});
