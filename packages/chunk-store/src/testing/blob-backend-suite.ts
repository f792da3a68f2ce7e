import { createHash, randomBytes } from "node:crypto";
import { afterEach, describe, expect, test } from "vitest";
import type { BlobBackend, BlobReadOptions } from "../backend.ts";

/** A back end for one test, and what ends the world it lives in. */
export interface OpenedBackend {
  readonly backend: BlobBackend;
  /** Called after the test; the suite has closed the back end by then. */
  readonly end?: () => Promise<void>;
}

/** What differs between forms of `BlobBackend`. What a form can't do is tested as well: the suite then expects the refusal. */
export interface BlobBackendForm {
  /** `kind` of the opened back end. */
  readonly kind: string;
  /** Serves exactly `blob` under `id`, the SHA-256 of its bytes in hex. */
  readonly open: (blob: Uint8Array, id: string) => Promise<OpenedBackend>;
  /** Whether it tells blobs apart by their ids. One that does not (a single file) serves its blob under any id. */
  readonly namesBlobs: boolean;
  /** Whether it owns what it reads from. One that does not goes on after it was closed, for who shares it. */
  readonly owns: boolean;
  /** The same form before a host that takes requests and never answers; left out by forms that have no host. */
  readonly openSilent?: (blob: Uint8Array, id: string) => Promise<OpenedBackend>;
}

const size = 300_007;
const demand: BlobReadOptions = { deadlineMs: 10_000, priority: "demand" };
/** Every error of a back end has a code and says whether trying again can help. */
const coded = expect.objectContaining({ code: expect.stringMatching(/^[A-Z]+_[A-Z_]+$/), retryable: expect.any(Boolean) });

/** The end of a call whose signal fired: the signal's reason, or an error with a code that says so. */
async function reasonOf(call: Promise<unknown>): Promise<unknown> {
  const error = await call.then(
    () => "it did not end",
    (thrown: unknown) => thrown,
  );
  if (!(error instanceof Error) || !("code" in error)) return error;
  expect(error).toEqual(coded);
  return error.cause;
}

/** Every form of `BlobBackend`, and whatever wraps one, passes this. */
export function blobBackendSuite(name: string, form: BlobBackendForm): void {
  describe(`${name} is a blob back end`, () => {
    const blob = randomBytes(size);
    const id = createHash("sha256").update(blob).digest("hex");
    const opened: OpenedBackend[] = [];
    const started = async (opening: Promise<OpenedBackend>): Promise<BlobBackend> => {
      const one = await opening;
      opened.push(one);
      return one.backend;
    };
    const open = (): Promise<BlobBackend> => started(form.open(blob, id));
    afterEach(async () => {
      for (const { backend, end } of opened.splice(0)) {
        await backend[Symbol.asyncDispose]();
        await end?.();
      }
    });
    const part = (offset: number, length: number): string => blob.toString("hex", offset, offset + length);

    test("a range comes as it is stored, at the start, inside, and up to the last byte", async () => {
      const backend = await open();
      expect(backend.kind).toBe(form.kind);
      for (const [offset, length] of [
        [0, 1],
        [0, size],
        [4097, 65_536],
        [size - 1, 1],
      ] as const) {
        const bytes = await backend.read(id, { offset, length }, demand);
        expect(Buffer.from(bytes).toString("hex")).toBe(part(offset, length));
      }
    });

    test("the size is that of the stored blob", async () => {
      expect(await (await open()).size(id, demand)).toBe(size);
    });

    test.each([
      ["begins inside and passes the end", { offset: size - 10, length: 11 }],
      ["begins at the end", { offset: size, length: 1 }],
      ["lies far beyond it", { offset: 2 ** 40, length: 4096 }],
    ] as const)("a read that %s is refused, not shortened", async (_, range) => {
      await expect((await open()).read(id, range, { ...demand, deadlineMs: 3000 })).rejects.toEqual(coded);
    });

    test("64 reads at a time each get their own bytes, in memory of their own", async () => {
      const backend = await open();
      const reads = Array.from({ length: 64 }, (_, at) => ({ offset: at * 1000, length: 1500 }));
      const priority = (at: number): BlobReadOptions => ({ ...demand, priority: at % 2 === 0 ? "demand" : "prefetch" });
      const results = await Promise.all(reads.map((range, at) => backend.read(id, range, priority(at))));
      for (const bytes of results.slice(0, 32)) bytes.fill(0);
      results.slice(32).forEach((bytes, at) => {
        expect(Buffer.from(bytes).toString("hex")).toBe(part((at + 32) * 1000, 1500));
      });
    });

    test("what is shown of a range on its way is the beginning of it, and does not change; offered memory takes that range only", async () => {
      const backend = await open();
      const reads = [0, 70_001, 100_000, 200_003].map(async (offset) => {
        const into = new Uint8Array(100_000);
        const shown: { readonly part: Uint8Array; readonly hex: string }[] = [];
        const onPart = (bytes: Uint8Array): void => void shown.push({ part: bytes, hex: Buffer.from(bytes).toString("hex") });
        const bytes = await backend.read(id, { offset, length: into.length }, { ...demand, into, onPart });
        expect(Buffer.from(bytes).toString("hex")).toBe(part(offset, into.length));
        for (const { part: seen, hex } of shown) {
          expect(hex).toBe(part(offset, seen.length));
          expect(Buffer.from(seen).toString("hex")).toBe(hex);
        }
      });
      await Promise.all(reads);
    });

    test("two readers of one range: the abort of one is its own reason, the other gets the bytes", async () => {
      const backend = await open();
      const abort = new AbortController();
      const range = { offset: 0, length: size };
      const ended = backend.read(id, range, { ...demand, signal: abort.signal });
      const goesOn = backend.read(id, range, demand);
      const reason = new Error("the reader went away");
      abort.abort(reason);
      expect(await reasonOf(ended)).toBe(reason);
      expect(Buffer.from(await goesOn).equals(blob)).toBe(true);
    });

    test("a signal that fired before the call ends it at once", async () => {
      const reason = new Error("never began");
      const read = (await open()).read(id, { offset: 0, length: 1 }, { ...demand, signal: AbortSignal.abort(reason) });
      expect(await reasonOf(read)).toBe(reason);
    });

    const absent = createHash("sha256").update("another blob").digest("hex");
    if (form.namesBlobs) {
      test("a blob that is not there is a coded error that names it, for its bytes and for its size", async () => {
        const backend = await open();
        const limits = { ...demand, deadlineMs: 3000 };
        const calls = [backend.read(absent, { offset: 0, length: 1 }, limits), backend.size(absent, limits)];
        for (const error of await Promise.all(calls.map((call) => call.catch((thrown: unknown) => thrown)))) {
          expect(error).toEqual(coded);
          expect((error as Error).message).toContain(absent.slice(0, 12));
        }
      });

      test.each(["..", "../../etc/hostname", "a/b", ""])("an id that is no name, %j, is refused and leads nowhere", async (hostile) => {
        await expect((await open()).read(hostile, { offset: 0, length: 1 }, { ...demand, deadlineMs: 3000 })).rejects.toEqual(coded);
      });
    } else {
      test("any id is answered with the one blob", async () => {
        const backend = await open();
        expect(Buffer.from(await backend.read(absent, { offset: 5, length: 9 }, demand)).toString("hex")).toBe(part(5, 9));
      });
    }

    test("closing twice is harmless; after it a read is refused, or goes on where the form owns nothing", async () => {
      const backend = await open();
      await backend.read(id, { offset: 0, length: 1 }, demand);
      await backend[Symbol.asyncDispose]();
      await backend[Symbol.asyncDispose]();
      const read = backend.read(id, { offset: 0, length: 1 }, { ...demand, deadlineMs: 3000 });
      if (form.owns) await expect(read).rejects.toEqual(coded);
      else expect((await read)[0]).toBe(blob[0]);
    });

    const { openSilent } = form;
    if (openSilent !== undefined) {
      test("before a silent host a read ends at its deadline, an abort or the closing, whichever comes first", async () => {
        const backend = await started(openSilent(blob, id));
        const range = { offset: 0, length: 4096 };
        const late = backend.read(id, range, { ...demand, deadlineMs: 300 });
        await expect(late).rejects.toMatchObject({ code: expect.stringMatching(/_DEADLINE$/) });
        const abort = new AbortController();
        const aborted = backend.read(id, range, { ...demand, signal: abort.signal });
        const reason = new Error("gave up");
        setTimeout(() => abort.abort(reason), 50);
        expect(await reasonOf(aborted)).toBe(reason);
        if (!form.owns) return;
        const closed = expect(backend.read(id, range, demand)).rejects.toEqual(coded);
        setTimeout(() => void backend[Symbol.asyncDispose](), 50);
        await closed;
      });
    }
  });
}
