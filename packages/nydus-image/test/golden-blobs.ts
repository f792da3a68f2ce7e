/** Directories of blobs for golden cases: what the build left, and the layers that stay as they are, under the ids the images know. */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { copyFileSync, mkdirSync, readdirSync, readFileSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { type GoldenCase, goldenDir } from "@nydus-ts/testkit";

/** Makes the source trees and tars once. */
export class GoldenSources {
  readonly path: string;
  readonly #layers = new Map<string, string>();

  constructor(path: string) {
    this.path = path;
    execFileSync("bash", [join(goldenDir()!, "make-sources.sh"), path]);
    for (const name of readdirSync(path)) {
      if (!/\.(tar|gz|estargz)$/.test(name)) continue;
      const file = join(path, name);
      this.#layers.set(createHash("sha256").update(readFileSync(file)).digest("hex"), file);
      this.#layers.set(name, file);
    }
  }

  /** Makes `directory` hold every blob of a case. */
  blobsOf(golden: GoldenCase, directory: string): string {
    mkdirSync(directory, { recursive: true });
    for (const name of golden.blobDirectory === undefined ? [] : readdirSync(golden.blobDirectory)) {
      if (/\.(data|meta|chunk_map)$/.test(name)) continue;
      copyFileSync(join(golden.blobDirectory!, name), join(directory, name));
    }
    for (const [id, file] of this.#layers) {
      if (!readdirSync(directory).includes(id)) symlinkSync(file, join(directory, id));
    }
    return directory;
  }
}

/** The bootstrap of a case, inside its blob when it was built so; that blob must have its own name. */
export function bootstrapOf(golden: GoldenCase, blobs: string): string {
  return golden.bootstrapFile ?? join(blobs, readdirSync(golden.blobDirectory!).find((name) => /^[0-9a-f]{64}$/.test(name))!);
}
