import { open } from "node:fs/promises";

/** Bytes of one piece. */
const pieceBytes = 256 * 1024;

/** A file, FIFO or device from start to end. All pieces share one buffer: each is valid until the next is asked for. */
export async function* readPieces(path: string): AsyncGenerator<Uint8Array, void, undefined> {
  await using handle = await open(path, "r");
  const buffer = Buffer.allocUnsafeSlow(pieceBytes);
  for (;;) {
    const { bytesRead } = await handle.read(buffer, 0, buffer.length, null);
    if (bytesRead === 0) return;
    yield buffer.subarray(0, bytesRead);
  }
}
