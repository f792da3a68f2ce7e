/** What a command may touch of the process it runs in, so that tests call commands like functions. */
export interface Io {
  stdin: AsyncIterable<Uint8Array | string>;
  stdout: Output;
  stderr: Output;
  env: Readonly<Record<string, string | undefined>>;
  /** fires when the person gives up (SIGINT, SIGTERM) */
  signal: AbortSignal;
}

export interface Output {
  write(text: string): unknown;
  readonly isTTY?: boolean;
}

export function processIo(): Io {
  const abort = new AbortController();
  for (const name of ["SIGINT", "SIGTERM"] as const) process.once(name, () => abort.abort(new Error(`stopped by ${name}`)));
  return { stdin: process.stdin, stdout: process.stdout, stderr: process.stderr, env: process.env, signal: abort.signal };
}

/** Bytes of standard input that are read: lists of paths. Beyond it the command fails. */
const stdinBytesMax = 16 * 1024 * 1024;

export async function readAllInput(io: Io): Promise<string> {
  const parts: Buffer[] = [];
  let bytes = 0;
  for await (const part of io.stdin) {
    const piece = Buffer.from(part);
    bytes += piece.length;
    if (bytes > stdinBytesMax) throw new Error(`standard input has more than ${stdinBytesMax} bytes`);
    parts.push(piece);
  }
  return Buffer.concat(parts).toString();
}
