import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { StateMachine } from "../src/state-machine.ts";
import { decodeState, encodeState, type SavedState } from "../src/takeover/state.ts";

const nothing = (): void => undefined;

describe("the state machine", () => {
  test("a fresh daemon is reported INIT until it runs, and a stop from running passes READY", async () => {
    const machine = new StateMachine();
    await machine.handle("mount", nothing);
    expect(machine.reported).toBe("INIT");
    await machine.handle("start", nothing);
    expect(machine.reported).toBe("RUNNING");
    await machine.handle("stop", nothing);
    expect(machine.reported).toBe("READY");
    await machine.handle("exit", nothing);
    expect(machine.reported).toBe("STOPPED");
  });

  test("an event the state does not allow is STATE_REFUSED and names what is possible", async () => {
    const machine = new StateMachine();
    await expect(machine.handle("start", nothing)).rejects.toMatchObject({ code: "STATE_REFUSED", status: 400 });
  });

  test("a take-over that failed can be tried again", async () => {
    const machine = new StateMachine();
    const failing = machine.handle("takeover", () => Promise.reject(new Error("no supervisor")));
    await expect(failing).rejects.toThrow("no supervisor");
    expect(machine.reported).toBe("INIT");
    await machine.handle("takeover", nothing);
    expect(machine.reported).toBe("READY");
  });

  test("events are handled one after the other", async () => {
    const machine = new StateMachine();
    const order: string[] = [];
    const first = machine.handle("mount", async () => {
      await new Promise((resolve) => setTimeout(resolve, 20));
      order.push("mount");
    });
    const second = machine.handle("start", () => void order.push("start"));
    await Promise.all([first, second]);
    expect(order).toEqual(["mount", "start"]);
  });
});

describe("the saved state", () => {
  const state: SavedState = {
    mounts: [
      { mountpoint: "/a", vfsIndex: 7, source: "/a.boot", config: "{}", mountedTime: "now", prefetchFiles: ["/x"], registryAuth: "dTpw" },
    ],
    engine: { fuseConnectionId: 44, initFlags: "0x1", pseudoInodes: [{ path: "/b", ino: 2 }], mounts: [{ mountpoint: "/a", vfsIndex: 7 }] },
  };

  test("comes back as it was, also with zeros behind it and with a megabyte of configuration", () => {
    expect(decodeState(encodeState(state))).toEqual(state);
    expect(decodeState(Buffer.concat([encodeState(state), Buffer.alloc(4096)]))).toEqual(state);
    const large = { ...state, mounts: [{ ...state.mounts[0]!, config: "x".repeat(1 << 20) }] };
    expect(decodeState(encodeState(large))).toEqual(large);
  });

  test("cut anywhere, or with any byte changed, it is TAKEOVER_STATE", () => {
    const bytes = encodeState(state);
    fc.assert(
      fc.property(fc.nat(bytes.length - 1), fc.integer({ min: 1, max: 255 }), (at, flip) => {
        expect(() => decodeState(bytes.subarray(0, at))).toThrow(expect.objectContaining({ code: "TAKEOVER_STATE" }));
        const damaged = Buffer.from(bytes);
        damaged[at]! ^= flip;
        expect(() => decodeState(damaged)).toThrow(expect.objectContaining({ code: "TAKEOVER_STATE" }));
      }),
    );
  });
});
