import { mkdir, mkdtemp, rm, rmdir } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

/**
 * A folder of its own for one run, removed with all that is in it, and its parent too when that was made for it.
 *
 * @param parent  default: the system's temporary directory
 */
export async function workDirectory(parent: string = tmpdir()): Promise<{ readonly path: string } & AsyncDisposable> {
  const made = await mkdir(parent, { recursive: true });
  const path = await mkdtemp(join(parent, "nydusify-"));
  return {
    path,
    async [Symbol.asyncDispose]() {
      await rm(path, { recursive: true, force: true });
      if (made !== undefined) await rmdir(parent).catch(() => {});
    },
  };
}
