import { createHash } from "node:crypto";
import { gzipSync } from "node:zlib";
import { describe, expect, test } from "vitest";
import { BuilderError } from "../src/index.ts";
import { ContextCutter } from "../src/zran/contexts.ts";
import { GzipReader } from "../src/zran/gzip-reader.ts";
import { ScriptInflater } from "../src/zran/inflate.ts";
import { openNativeInflater } from "../src/zran/native-inflate.ts";
import { encoders, inflateContext, mixedBytes } from "./zran-support.ts";

async function* pieces(bytes: Buffer, size: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

async function readAll(reader: GzipReader, stepOf: () => number): Promise<Buffer> {
  const parts: Buffer[] = [];
  for (;;) {
    const target = Buffer.alloc(stepOf());
    const bytes = await reader.readInto(target);
    parts.push(target.subarray(0, bytes));
    if (bytes < target.length) return Buffer.concat(parts);
  }
}

const data = mixedBytes(3_000_000, 7);

describe.each(encoders)("gzip made with %s", (_name, encode) => {
  const file = encode(data);

  test.each([1, 4096, 1 << 24])("reads equal, whatever sizes input comes and output is asked in (pieces of %d bytes)", async (size) => {
    const reader = new GzipReader(pieces(size < 100 ? encode(data.subarray(0, 200_000)) : file, size));
    const steps = [1, 512, 3, 70_000, 257, 258, 259, 1_000_000];
    let step = 0;
    const output = await readAll(reader, () => steps[step++ % steps.length]);
    expect(output.equals(size < 100 ? data.subarray(0, 200_000) : data)).toBe(true);
    if (size < 100) return;
    expect(reader.sourceBytes).toBe(file.length);
    expect(reader.sourceDigest().equals(createHash("sha256").update(file).digest())).toBe(true);
  });

  test("the zlib of Node's binary and the decoder in JavaScript stop at the same bits, wherever they are stopped", async () => {
    const native = new GzipReader(pieces(file, 65536), (...sizes) => openNativeInflater(...sizes)!);
    const script = new GzipReader(pieces(file, 65536), (...sizes) => new ScriptInflater(...sizes));
    const steps = [1, 512, 3, 70_000, 257, 258, 259, 10_000, 2];
    for (let step = 0, position = 0; position < data.length; step++) {
      const bytes = Math.min(steps[step % steps.length], data.length - position);
      const [one, other] = [Buffer.alloc(bytes), Buffer.alloc(bytes)];
      expect(await native.readInto(one)).toBe(await script.readInto(other));
      expect(one.equals(other)).toBe(true);
      expect([native.inPosition, native.resume]).toEqual([script.inPosition, script.resume]);
      if (step % 20 === 0) expect(Buffer.compare(native.resumeDictionary(), script.resumeDictionary())).toBe(0);
      position += bytes;
    }
    await native.close();
  });

  test("inflation resumes in the middle, at every border between blocks, with node:zlib alone", async () => {
    const reader = new GzipReader(pieces(file, 65536));
    let last = -1;
    let resumed = 0;
    for (let position = 4096; position < data.length; position += 4096) {
      await reader.skip(4096);
      if (reader.resume.outPosition !== last) {
        last = reader.resume.outPosition;
        const outLength = Math.min(50_000, data.length - last);
        const context = { ...reader.resume, dictionary: reader.resumeDictionary(), inLength: 120_000, outLength };
        expect(inflateContext(file, context).equals(data.subarray(last, last + outLength))).toBe(true);
        resumed++;
      }
    }
    expect(resumed).toBeGreaterThan(1);
  });

  test.each([4096, 65536, 1048576])("every chunk is found through its context (chunks of %d bytes)", async (chunkSize) => {
    const reader = new GzipReader(pieces(file, 65536));
    const dictionaries: Uint8Array[] = [];
    const cutter = new ContextCutter(reader, (dictionary) => dictionaries.push(dictionary));
    const chunks: Array<{ start: number; size: number; context: number; offset: number }> = [];
    // Gaps between chunks are what tar headers are.
    for (let at = 512; at < data.length; at += chunkSize + 700) {
      const size = Math.min(chunkSize, data.length - at);
      await reader.skip(at - reader.position);
      cutter.startChunk(chunkSize);
      await reader.skip(size);
      const { context, offset } = cutter.finishChunk();
      chunks.push({ start: at, size, context, offset });
    }
    const outputs = cutter.contexts.map((context, i) => inflateContext(file, { ...context, dictionary: dictionaries[i] }));
    for (const { start, size, context, offset } of chunks) {
      expect(outputs[context].subarray(offset, offset + size).equals(data.subarray(start, start + size))).toBe(true);
    }
    expect(cutter.contexts.map(({ dictionarySize }) => dictionarySize)).toEqual(dictionaries.map(({ length }) => length));
    for (const { length } of dictionaries) expect(length).toBeLessThanOrEqual(32768);
  });
});

describe.each([
  ["the zlib of Node's binary", openNativeInflater],
  ["the decoder in JavaScript", (...sizes: [number, number]) => new ScriptInflater(...sizes)],
] as const)("a damaged gzip file, read by %s,", (_name, open) => {
  const small = mixedBytes(600, 3);
  const file = Buffer.concat([gzipSync(small.subarray(0, 300)), gzipSync(small.subarray(300), { level: 0 })]);
  const read = async (bytes: Buffer) => {
    const reader = new GzipReader(pieces(bytes, 100), (...sizes) => open(...sizes)!);
    return await readAll(reader, () => 4096).finally(() => reader.close());
  };

  test("cut at any byte is refused, except between its members", async () => {
    const border = gzipSync(small.subarray(0, 300)).length;
    for (let end = 0; end < file.length; end++) {
      if (end === border) expect((await read(file.subarray(0, end))).length).toBe(300);
      else await expect(read(file.subarray(0, end))).rejects.toMatchObject({ code: "BUILD_TAR" });
    }
  });

  test("with any bit flipped is refused, or reads equal where the bit says nothing about the data", async () => {
    for (let at = 0; at < file.length; at++) {
      for (let bit = 0; bit < 8; bit++) {
        const bytes = Buffer.from(file);
        bytes[at] ^= 1 << bit;
        const result = await read(bytes).catch((error: unknown) => error);
        if (result instanceof BuilderError) expect(["BUILD_TAR", "BUILD_LIMIT"]).toContain(result.code);
        else expect((result as Buffer).equals(small)).toBe(true);
      }
    }
  });

  test("followed by other bytes is refused", async () => {
    await expect(read(Buffer.concat([file, Buffer.from("x")]))).rejects.toMatchObject({ code: "BUILD_TAR" });
  });

  test("whose member has an endless name is refused after 256 KiB", async () => {
    const name = Buffer.concat([Buffer.from([0x1f, 0x8b, 8, 8, 0, 0, 0, 0, 0, 3]), Buffer.alloc(1_000_000, 65)]);
    await expect(read(name)).rejects.toMatchObject({ code: "BUILD_LIMIT" });
  });
});

test("a block that inflates to more than readers hold is refused, with another way to build", async () => {
  const reader = new GzipReader(pieces(oneBlockOfZeros(70_000), 65536));
  const cutter = new ContextCutter(reader, () => {});
  const read = async () => {
    for (let i = 0; i < 17; i++) {
      cutter.startChunk(0x100000);
      await reader.skip(0x100000);
      cutter.finishChunk();
    }
  };
  await expect(read()).rejects.toMatchObject({ code: "BUILD_LIMIT" });
});

/** A member of one block with fixed codes: a zero, then `matches` times 258 copies of it. Without its trailer. */
function oneBlockOfZeros(matches: number): Buffer {
  const zero = "00110000";
  const copy258 = "1100010100000";
  const bits = `110${zero}${copy258.repeat(matches)}`;
  const out = Buffer.alloc(10 + Math.ceil(bits.length / 8));
  out.set([0x1f, 0x8b, 8]);
  for (let i = 0; i < bits.length; i++) if (bits[i] === "1") out[10 + (i >> 3)] |= 1 << (i & 7);
  return out;
}
