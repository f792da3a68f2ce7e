import { once } from "node:events";
import { Worker } from "node:worker_threads";
import { describe, expect, test, vi } from "vitest";
import { FuseReply, FuseRequest, formatRequest, initFlags, opcodes } from "../src/index.ts";
import { negotiate } from "../src/init.ts";
import { struct } from "../src/struct.ts";
import { ENTRY, IN_HEADER, INIT_IN, INIT_OUT, READ_IN } from "../src/structs.ts";
import { WorkerTable } from "../src/worker-table.ts";

/** A request as the kernel would deliver it. */
function deliver(opcode: number, options: { node?: bigint; unique?: bigint; body?: Uint8Array }): FuseRequest {
  const request = new FuseRequest();
  const body = options.body ?? new Uint8Array(0);
  const length = IN_HEADER.size + body.length;
  request.view.setUint32(IN_HEADER.length, length, true);
  request.view.setUint32(IN_HEADER.opcode, opcode, true);
  request.view.setBigUint64(IN_HEADER.unique, options.unique ?? 2n, true);
  request.view.setBigUint64(IN_HEADER.node, options.node ?? 1n, true);
  request.view.setUint32(IN_HEADER.pid, 77, true);
  request.bytes.set(body, IN_HEADER.size);
  expect(request.accept(length)).toBe(true);
  return request;
}

describe("structures", () => {
  test("a table with a hole, an overlap or another size does not load", () => {
    expect(() => struct("hole", 8, 0, [["a", 4, "u32"]])).toThrow();
    expect(() =>
      struct("overlap", 8, 0, [
        ["a", 0, "u64"],
        ["b", 4, "u32"],
      ]),
    ).toThrow();
    expect(() => struct("short", 8, 0, [["a", 0, "u32"]])).toThrow();
  });

  test("every opcode has a name and one row", () => {
    const names = opcodes.flatMap((opcode) => (opcode === undefined ? [] : [opcode.name]));
    expect(new Set(names).size).toBe(names.length);
    expect(opcodes[15]).toMatchObject({ name: "READ", treatment: "read" });
  });
});

describe("a request", () => {
  test("of the full 64 bits of node and unique is shown in one line without loss", () => {
    const body = new Uint8Array(READ_IN.size);
    const view = new DataView(body.buffer);
    view.setBigUint64(READ_IN.offset - IN_HEADER.size, 2n ** 40n, true);
    view.setUint32(READ_IN.length - IN_HEADER.size, 131_072, true);
    const read = deliver(15, { node: (255n << 56n) | 7n, unique: (1n << 63n) | 42n, body });
    expect(read.offset).toBe(2 ** 40);
    expect(formatRequest(read)).toBe("READ unique=9223372036854775850 node=0xff00000000000007 pid=77 [1099511627776..1099511758848)");
    expect(formatRequest(deliver(1, { body: Buffer.from("name\0") }))).toBe('LOOKUP unique=2 node=0x1 pid=77 "name"');
    expect(formatRequest(deliver(63, {}))).toBe("OPCODE_63 unique=2 node=0x1 pid=77");
  });

  test("whose length field is not what was delivered is refused", () => {
    const request = new FuseRequest();
    request.view.setUint32(IN_HEADER.length, 100, true);
    expect(request.accept(40)).toBe(false);
    expect(request.accept(8)).toBe(false);
  });
});

describe("INIT", () => {
  const init = (major: number, minor: number, flags: bigint): { result: number; reply: FuseReply; agreed: bigint | undefined } => {
    const body = new Uint8Array(INIT_IN.size);
    const view = new DataView(body.buffer);
    const at = (field: number): number => field - IN_HEADER.size;
    view.setUint32(at(INIT_IN.major), major, true);
    view.setUint32(at(INIT_IN.minor), minor, true);
    view.setUint32(at(INIT_IN.flags), Number(flags & 0xffff_ffffn), true);
    view.setUint32(at(INIT_IN.flags2), Number(flags >> 32n), true);
    const reply = new FuseReply();
    let agreed: bigint | undefined;
    const result = negotiate(deliver(26, { body }), reply, (outcome) => {
      agreed = outcome.flags;
    });
    return { result, reply, agreed };
  };

  test("takes only flags the kernel offers, and the second word only when it is announced", () => {
    const offered = initFlags.noOpen | initFlags.maxPages | initFlags.hasResend;
    expect(init(7, 45, offered).agreed).toBe(initFlags.noOpen | initFlags.maxPages);
    const { agreed, reply } = init(7, 45, offered | initFlags.initExtended);
    expect(agreed).toBe(offered | initFlags.initExtended);
    expect(reply.view.getUint32(INIT_OUT.minor, true)).toBe(41);
    expect(reply.view.getUint16(INIT_OUT.pagesMax, true)).toBe(256);
  });

  test("of an old kernel is an error, of a newer major asks for ours", () => {
    expect(init(7, 12, 0n).result).not.toBe(0);
    const { result, agreed, reply } = init(8, 0, 0n);
    expect([result, agreed, reply.view.getUint32(INIT_OUT.major, true)]).toEqual([0, undefined, 7]);
  });
});

describe("a reply", () => {
  test("with a listing stops before the entry that does not fit, and pads names to 8 bytes", () => {
    const reply = new FuseReply();
    const name = Buffer.from("abc");
    reply.beginListing(70, false);
    let entries = 0;
    while (reply.hasRoom(name.length)) reply.listingEntry(5, ++entries, 8, name, 0, 3, 0, 0, 0);
    expect([entries, reply.length]).toEqual([2, 64]);
    reply.beginListing(ENTRY.size + 32, true);
    expect(reply.hasRoom(8)).toBe(true);
    expect(reply.hasRoom(9)).toBe(false);
  });
});

describe("the table of workers", () => {
  test("shows what each worker has in hand, until it is done", () => {
    const table = new WorkerTable(2);
    const other = new WorkerTable(table.buffer);
    other.begin(1, 7, 1, 15, 42, 0);
    expect(table.current()).toMatchObject([{ node: 2 ** 32 + 7, opcode: 15, unique: 42 }]);
    other.end(1);
    expect(table.current()).toEqual([]);
    table.call(1);
    expect([other.calls(0), other.calls(1)]).toEqual([0, 1]);
  });

  test("lets a stand-in rest until it is called, a worker was held up, or one hangs", async () => {
    const table = new WorkerTable(2);
    const restOnThread = async (then: () => void): Promise<boolean> => {
      const thread = new Worker(new URL("./resting-worker.ts", import.meta.url), {
        workerData: { table: table.buffer, calls: table.calls(1) },
      });
      try {
        expect(await once(thread, "message")).toEqual(["resting"]);
        then();
        const [wanted] = (await once(thread, "message")) as [boolean];
        return wanted;
      } finally {
        await thread.terminate();
      }
    };
    expect(await restOnThread(() => table.call(1))).toBe(false);
    // Begun long ago by a clock that is taken back afterwards, so that nobody has to wait.
    const clock = vi.spyOn(Date, "now").mockReturnValue(Date.now() - 60_000);
    table.begin(0, 7, 0, 15, 42, 0);
    clock.mockRestore();
    expect(await restOnThread(() => undefined)).toBe(true);
    table.end(0);
    const fresh = new WorkerTable(1);
    expect(fresh.helpWanted).toBe(false);
    fresh.askForHelp();
    expect(fresh.helpWanted).toBe(true);
    fresh.rest(0, 0);
  });
});
