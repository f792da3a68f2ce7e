import { readFileSync } from "node:fs";
import { type FileHandle, open, rm, writeFile } from "node:fs/promises";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { goldenAbsent, goldenDir, readBootstrap } from "@nydus-ts/testkit";
import { describe, expect, test } from "vitest";
import {
  type Bootstrap,
  bufferSource,
  fileSource,
  httpSource,
  openBootstrap,
  openRandomAccess,
  RafsError,
  type RandomAccessBootstrap,
  type RandomAccessSource,
} from "../src/index.ts";
import { buildBootstrap } from "../src/writer/index.ts";
import { generatedOptions, generatedTree } from "../bench/generated-tree.ts";
import { damaged, withBootstrap } from "./golden.ts";

/** The smallest pages and room for two: every operation meets missing pages and is made again. */
const tight = { pageBytes: 512, cacheBytes: 1024 };
const fixture = readFileSync(join(import.meta.dirname, "fixtures/plain-v6.boot"));
const golden = goldenDir();
const entries = [...withBootstrap(6), ...withBootstrap(5)].filter(({ name }) => name !== "chunkdict-v6-generate");

describe("random access", () => {
  test.each(entries)("$name: gives name by name what the whole bootstrap gives", async (entry) => {
    const bytes = readBootstrap(entry);
    expect(await allOf(await openRandomAccess(bufferSource(bytes), tight))).toEqual(await allOf(openBootstrap(bytes)));
  });

  test.skipIf(golden === undefined)(
    `damaged images end with the same code${golden === undefined ? ` (${goldenAbsent})` : ""}`,
    async () => {
      let refused = 0;
      for (const { directory } of damaged("", golden as string)) {
        const bytes = readBytes(join(directory, "bootstrap"));
        if (bytes === undefined) continue;
        const wanted = await codeOf(async () => allOf(openBootstrap(bytes)));
        expect(await codeOf(async () => allOf(await openRandomAccess(bufferSource(bytes), tight)))).toBe(wanted);
        if (wanted !== undefined) refused++;
      }
      expect(refused).toBeGreaterThan(20);
    },
  );

  test("a path is found by the few pages that lead to it", async () => {
    const bytes = await buildBootstrap(generatedTree(9000), generatedOptions(6));
    const bootstrap = await openRandomAccess(bufferSource(bytes), { pageBytes: 4096, cacheBytes: 4096 * 64 });
    const opened = bootstrap.stats.reads;
    expect(await bootstrap.resolve("/d0000007/f0000003")).toBe(openBootstrap(bytes).resolve("/d0000007/f0000003"));
    expect(await bootstrap.resolve("/d0000007/f0000003/below")).toBeUndefined();
    expect(await bootstrap.resolve("/d0000007/nothing")).toBeUndefined();
    expect(bootstrap.stats.reads - opened).toBeLessThan(10);
    expect(bytes.length / 4096).toBeGreaterThan(70);
  });

  test("calls that run at once share the read of a page", async () => {
    const bootstrap = await openRandomAccess(bufferSource(fixture), { pageBytes: 65536, cacheBytes: 65536 });
    await Promise.all(Array.from({ length: 50 }, () => bootstrap.inode(bootstrap.rootNid)));
    expect(bootstrap.stats.reads).toBe(Math.ceil(fixture.length / 65536));
  });

  test("an error of the source reaches who asked, and the next call asks again", async () => {
    const healthy = bufferSource(fixture);
    let broken = false;
    const source: RandomAccessSource = {
      size: healthy.size,
      read: (offset, length) => (broken ? Promise.reject(new Error("no network")) : healthy.read(offset, length)),
    };
    const bootstrap = await openRandomAccess(source, tight);
    broken = true;
    await expect(allOf(bootstrap)).rejects.toThrow("no network");
    broken = false;
    expect(await allOf(bootstrap)).toEqual(await allOf(openBootstrap(fixture)));
  });

  test("a source that gives too little is named, and nothing is read from it", async () => {
    const source = { size: fixture.length, read: async () => new Uint8Array(3) };
    expect(await codeOf(() => openRandomAccess(source))).toBe("RAFS_SOURCE");
  });
});

describe("sources", () => {
  test("a file", async () => {
    const path = join(tmpdir(), `rafs-format-source-${process.pid}`);
    await writeFile(path, fixture);
    const file: FileHandle = await open(path, "r+");
    try {
      const bootstrap = await openRandomAccess(await fileSource(file), tight);
      expect(await allOf(bootstrap)).toEqual(await allOf(openBootstrap(fixture)));
      await file.truncate(4096);
      expect(await codeOf(() => allOf(bootstrap))).toBe("RAFS_SOURCE");
    } finally {
      await file.close();
      await rm(path);
    }
  });

  test("ranges over HTTP", async () => {
    await using server = await serve((request, response) => sendRange(request, response, fixture));
    const bootstrap = await openRandomAccess(await httpSource(server.url, { fetch, timeoutMs: 10_000 }), tight);
    expect(await allOf(bootstrap)).toEqual(await allOf(openBootstrap(fixture)));
  });

  test.each<[string, (request: IncomingMessage, response: ServerResponse) => void]>([
    ["a server that ignores the range", (_, response) => response.end(fixture)],
    ["a server that has nothing", (_, response) => response.writeHead(404).end()],
    ["another range than asked for", (_, response) => response.writeHead(206, { "content-range": "bytes 5-5/100" }).end("x")],
    ["a longer body", (_, response) => response.writeHead(206, { "content-range": "bytes 0-0/100" }).end("xyz")],
    ["an empty body", (_, response) => response.writeHead(206, { "content-range": "bytes 0-0/100" }).end()],
  ])("%s is refused with RAFS_SOURCE", async (_, answer) => {
    await using server = await serve(answer);
    expect(await codeOf(() => httpSource(server.url, { fetch, timeoutMs: 10_000 }))).toBe("RAFS_SOURCE");
  });

  test("a server whose file changes its size is refused", async () => {
    let file: Uint8Array = fixture;
    await using server = await serve((request, response) => sendRange(request, response, file));
    const source = await httpSource(server.url, { fetch, timeoutMs: 10_000 });
    file = fixture.subarray(0, 8192);
    expect(await codeOf(() => source.read(0, 16))).toBe("RAFS_SOURCE");
  });

  test("a server that does not answer is given up", async () => {
    await using server = await serve(() => {});
    await expect(httpSource(server.url, { fetch, timeoutMs: 100 })).rejects.toThrow("timeout");
  });
});

/** Everything that a reader gives, of either kind. */
async function allOf(bootstrap: Bootstrap | RandomAccessBootstrap): Promise<string[]> {
  const lines = [JSON.stringify(bootstrap.blobs, plain), `${bootstrap.flags} ${bootstrap.inodeCount} ${bootstrap.byteLength}`];
  for await (const { path, nid, inode } of bootstrap.walk()) {
    lines.push(`${hex(path)} ${JSON.stringify(inode, plain)}`);
    for (const [name, value] of await bootstrap.xattrs(nid)) lines.push(`${name}=${hex(value)}`);
    if (inode.type === "symlink") lines.push(hex(await bootstrap.readLink(nid)));
    for await (const chunk of bootstrap.chunksOf(nid)) lines.push(JSON.stringify(chunk));
    if (inode.type === "dir") for await (const { name } of bootstrap.readDir(nid)) lines.push(hex(name));
    expect(await bootstrap.resolve(path)).toBe(nid);
  }
  const nids = typeof bootstrap.prefetchNids === "function" ? await bootstrap.prefetchNids() : bootstrap.prefetchNids;
  return [...lines, nids.join()];
}

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");
const plain = (_: string, value: unknown): unknown =>
  typeof value === "bigint" ? String(value) : value instanceof Uint8Array ? hex(value) : value;

async function codeOf(action: () => Promise<unknown>): Promise<string | undefined> {
  try {
    await action();
    return undefined;
  } catch (error) {
    if (error instanceof RafsError) return error.code;
    throw error;
  }
}

function readBytes(path: string): Uint8Array | undefined {
  try {
    return readFileSync(path);
  } catch {
    return undefined;
  }
}

function sendRange(request: IncomingMessage, response: ServerResponse, file: Uint8Array): void {
  const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "") ?? [];
  response.writeHead(206, { "content-range": `bytes ${from}-${to}/${file.length}` });
  response.end(file.subarray(Number(from), Number(to) + 1));
}

async function serve(
  answer: (request: IncomingMessage, response: ServerResponse) => void,
): Promise<{ readonly url: string } & AsyncDisposable> {
  const server = createServer(answer);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/image.boot`,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
