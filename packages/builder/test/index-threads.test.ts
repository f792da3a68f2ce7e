import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { setTimeout } from "node:timers/promises";
import { pathToFileURL } from "node:url";
import { gzipSync } from "node:zlib";
import { afterAll, describe, expect, test } from "vitest";
import { type CreateOptions, IndexThreads } from "../src/index.ts";
import { build, TemporaryDirectory } from "./support.ts";
import { tarOf } from "./tar-support.ts";
import { mixedBytes } from "./zran-support.ts";

const temporary = new TemporaryDirectory();
afterAll(() => temporary[Symbol.dispose]());

/** What makes threads worth it, whatever the layer's size. */
const bytes = 1 << 30;
const same = mixedBytes(700_000, 4);
const files = [mixedBytes(5_000_000, 3), Buffer.alloc(0), same, ...Array.from({ length: 700 }, (_, i) => Buffer.from(`small ${i}`)), same];
const layer = gzipSync(tarOf(files), { level: 1 });

async function* pieces(from: Buffer, size = 50_000): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < from.length; at += size) yield from.subarray(at, at + size);
}

async function buildLayer(name: string, stream: AsyncIterable<Uint8Array>, options: Partial<CreateOptions>) {
  const directory = temporary.join(name);
  const result = await build(temporary.path, directory, { toc: true, ...options, source: { kind: "layer", stream, bytes } });
  return { result, blob: readFileSync(result.blob!.path) };
}

describe("a layer that a thread reads", () => {
  test.each([4096, 0x100000])(
    "gives the bytes of one read here, also beside others and by a thread that read one before (chunks of %d bytes)",
    async (chunkSize) => {
      const here = await buildLayer(`here ${chunkSize}`, pieces(layer), { chunkSize });
      await using indexThreads = new IndexThreads();
      expect(indexThreads.takes(bytes)).toBe(true);
      for (const round of [1, 2]) {
        const both = await Promise.all(
          ["a", "b"].map((name) => buildLayer(`thread ${chunkSize} ${round} ${name}`, pieces(layer), { chunkSize, indexThreads })),
        );
        for (const { result, blob } of both) {
          expect(blob.equals(here.blob)).toBe(true);
          expect(result.bootstrap.equals(here.result.bootstrap)).toBe(true);
          expect(result.metaFile!.equals(here.result.metaFile!)).toBe(true);
          expect(result.statistics).toEqual(here.result.statistics);
        }
      }
    },
  );

  test.each([
    ["damaged at its end", () => pieces(flipped(layer, layer.length - 6)), { code: "BUILD_TAR" }],
    ["damaged in its middle", () => pieces(flipped(layer, layer.length >> 1)), { code: "BUILD_TAR" }],
    ["cut off", () => pieces(layer.subarray(0, -100_000)), { code: "BUILD_TAR" }],
    [
      "whose root is a file",
      () => pieces(gzipSync(Buffer.concat([tarOf([same], "./").subarray(0, 512 * 1369), tarOf([same], "././.\0")]))),
      { code: "BUILD_TAR" },
    ],
    ["whose source fails", () => failing(new Error("the network is gone")), { message: "the network is gone" }],
  ] as const)("%s fails as one read here, leaves nothing behind, and the next is read all the same", async (name, stream, expected) => {
    const here = await buildLayer(`${name} here`, stream(), {}).catch((failure: unknown) => failure as Error & { code?: string });
    await using indexThreads = new IndexThreads();
    const there = await buildLayer(`${name} there`, stream(), { indexThreads }).catch(
      (failure: unknown) => failure as Error & { code?: string },
    );
    expect(there).toMatchObject(expected);
    expect([(there as { code?: string }).code, (there as Error).message]).toEqual([
      (here as { code?: string }).code,
      (here as Error).message,
    ]);
    expect(readdirSync(temporary.join(`${name} there`), { recursive: true })).toEqual(["blobs"]);
    const next = await buildLayer(`${name} next`, pieces(layer), { indexThreads });
    expect(next.result.statistics.entryCount).toBe(files.length);
  });

  test("closes its source when the build is refused by the tree, and says so", async () => {
    let closed = false;
    async function* endless(): AsyncGenerator<Uint8Array> {
      try {
        yield gzipSync(tarOf([same], `${"n".repeat(99)}`)).subarray(0, 200_000);
        yield* pieces(layer);
      } finally {
        closed = true;
      }
    }
    await using indexThreads = new IndexThreads();
    await expect(buildLayer("refused", endless(), { indexThreads })).rejects.toMatchObject({ code: "BUILD_TAR" });
    expect(closed).toBe(true);
  });

  test.each([
    ["fails to start", "throw new Error('no such module')"],
    ["ends in the middle", "require('node:worker_threads').parentPort.on('message', ({ kind }) => kind === 'piece' && process.exit(1))"],
  ])("is a failed build, in one line, when the thread %s", async (name, program) => {
    const file = temporary.join(`${name}.cjs`);
    writeFileSync(file, program);
    await using indexThreads = new IndexThreads({ file: pathToFileURL(file) });
    const built = buildLayer(name, pieces(layer), { indexThreads });
    await expect(built).rejects.toMatchObject({
      code: "BUILD_OUTPUT",
      message: expect.stringMatching(/^a thread that reads a layer failed: .+$/),
    });
    expect(readdirSync(temporary.join(name), { recursive: true })).toEqual(["blobs"]);
  });

  test("is not given to a thread that died while it rested", async () => {
    const file = temporary.join("dies at rest.mjs");
    const worker = new URL("../src/zran/index-worker.ts", import.meta.url);
    // It ends once its layer was told: what is posted before that still arrives.
    writeFileSync(
      file,
      `import { parentPort } from "node:worker_threads";
       const post = parentPort.postMessage.bind(parentPort);
       parentPort.postMessage = (message) => { post(message); if (message.kind === "end") setTimeout(() => process.exit(1), 100); };
       await import(${JSON.stringify(worker.href)});`,
    );
    await using indexThreads = new IndexThreads({ file: pathToFileURL(file) });
    const first = await buildLayer("dies at rest, first", pieces(layer), { indexThreads });
    await setTimeout(1000);
    const second = await buildLayer("dies at rest, second", pieces(layer), { indexThreads });
    expect(second.blob.equals(first.blob)).toBe(true);
  });

  test("is not read by a thread while layers are small", async () => {
    await using indexThreads = new IndexThreads();
    expect([indexThreads.takes(500_000), indexThreads.takes(500_000), indexThreads.takes(bytes)]).toEqual([false, false, true]);
  });
});

function flipped(from: Buffer, at: number): Buffer {
  const out = Buffer.from(from);
  out[at] ^= 1;
  return out;
}

async function* failing(failure: Error): AsyncGenerator<Uint8Array> {
  yield layer.subarray(0, 400_000);
  throw failure;
}
