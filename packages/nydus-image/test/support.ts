/** Runs commands in this process, as a person would at the shell, and keeps what they said. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Io, main } from "../src/index.ts";

export interface Outcome {
  code: number;
  stdout: string;
  stderr: string;
}

export async function run(
  argv: readonly string[],
  options: { stdin?: string; env?: Io["env"]; signal?: AbortSignal; program?: (argv: readonly string[], io: Io) => Promise<number> } = {},
): Promise<Outcome> {
  let stdout = "";
  let stderr = "";
  const code = await (options.program ?? main)(argv, {
    stdin: input(options.stdin ?? ""),
    stdout: { write: (text) => (stdout += text) },
    stderr: { write: (text) => (stderr += text) },
    env: options.env ?? {},
    signal: options.signal ?? new AbortController().signal,
  });
  return { code, stdout, stderr };
}

async function* input(text: string): AsyncGenerator<Buffer> {
  if (text !== "") yield Buffer.from(text);
}

export class TemporaryDirectory implements Disposable {
  readonly path = mkdtempSync(join(tmpdir(), "nydus-image-test-"));

  join(...parts: string[]): string {
    return join(this.path, ...parts);
  }
  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true, force: true });
  }
}

/** A layer tar of plain members, made here so that equal input gives equal bytes. A name that ends in a slash is a directory. */
export function layerTar(members: Readonly<Record<string, string | Buffer>>): Buffer {
  const parts: Buffer[] = [];
  for (const [name, content] of Object.entries(members)) {
    const data = Buffer.from(content);
    const header = Buffer.alloc(512);
    const isDirectory = name.endsWith("/");
    header.write(name, 0, 100);
    header.write(isDirectory ? "0000755" : "0000644", 100);
    header.write("0000000", 108);
    header.write("0000000", 116);
    header.write(data.length.toString(8).padStart(11, "0"), 124);
    header.write("00000000144", 136);
    header.write("        ", 148);
    header.write(isDirectory ? "5" : "0", 156);
    header.write("ustar\x0000", 257, "latin1");
    header.write(
      `${header
        .reduce((sum, byte) => sum + byte, 0)
        .toString(8)
        .padStart(6, "0")}\0 `,
      148,
      "latin1",
    );
    parts.push(header, data, Buffer.alloc((512 - (data.length % 512)) % 512));
  }
  return Buffer.concat([...parts, Buffer.alloc(1024)]);
}
