// What a thread that indexes gzip layers runs, one layer after the other. A file of its own, since it needs a small part of the program.
import { parentPort } from "node:worker_threads";
import { crc32c } from "@node-rs/crc32";
import { digest } from "../codecs.ts";
import { BuilderError } from "../errors.ts";
import { isPartOfImage } from "../sources/tar.ts";
import { readTar } from "../sources/tar-reader.ts";
import { ContextCutter } from "./contexts.ts";
import { GzipReader } from "./gzip-reader.ts";
import type { FoundMember, FromThread, ToThread } from "./index-messages.ts";
import { foundChunksPerMessage } from "./limits.ts";

const pieces: Array<ToThread & { kind: "piece" | "end" }> = [];
let wake: () => void = () => {};

parentPort?.on("message", (message: ToThread) => {
  if (message.kind === "layer") {
    void index(message.chunkSize);
    return;
  }
  pieces.push(message);
  wake();
});

function tell(message: FromThread): void {
  parentPort?.postMessage(message);
}

async function* source(): AsyncGenerator<Uint8Array> {
  for (;;) {
    while (pieces.length === 0) await new Promise<void>((resolve) => (wake = resolve));
    const piece = pieces.shift()!;
    if (piece.kind === "end") return;
    yield new Uint8Array(piece.buffer, 0, piece.bytes);
    tell({ kind: "used", buffer: piece.buffer });
  }
}

async function index(chunkSize: number): Promise<void> {
  const input = new GzipReader(source());
  let members: FoundMember[] = [];
  let dictionaries: Uint8Array[] = [];
  let found = 0;
  const flush = (): void => {
    tell({ kind: "members", members, dictionaries });
    members = [];
    dictionaries = [];
    found = 0;
  };
  try {
    const cutter = new ContextCutter(input, (dictionary) => dictionaries.push(dictionary));
    const buffer = Buffer.allocUnsafeSlow(chunkSize);
    for await (const { read, ...member } of readTar(input)) {
      let one: FoundMember = { member, chunks: [] };
      members.push(one);
      found++;
      const size = member.kind === "file" && isPartOfImage(member.name) ? member.size : 0;
      for (let offset = 0; offset < size; offset += chunkSize) {
        const data = buffer.subarray(0, Math.min(chunkSize, size - offset));
        cutter.startChunk(chunkSize);
        await read(data);
        const place = cutter.finishChunk();
        one.chunks.push({ digest: digest(data, "sha256"), crc32: crc32c(data), size: data.length, place });
        if (++found < foundChunksPerMessage) continue;
        flush();
        one = { member: undefined, chunks: [] };
        members.push(one);
      }
      if (found >= foundChunksPerMessage) flush();
    }
    flush();
    tell({ kind: "end", contexts: cutter.contexts, sourceBytes: input.sourceBytes, sourceDigest: input.sourceDigest() });
  } catch (failure) {
    // What came before is told first: if it is refused, that is the failure.
    flush();
    tell({ kind: "failure", code: failure instanceof BuilderError ? failure.code : undefined, message: (failure as Error).message });
  } finally {
    await input.close();
  }
}
