import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MNT_DETACH, mountInfo, umount2 } from "@nydus-ts/linux";
import { daemonProcesses, endProcess } from "../../src/daemons/process.ts";

/** A folder for one test; whatever the test leaves in it (daemons, mounts) goes with it. */
export function temporaryRoot(): AsyncDisposable & { readonly path: string } {
  const path = mkdtempSync(join(tmpdir(), "nydus-sn-"));
  return {
    path,
    async [Symbol.asyncDispose]() {
      for (const process of daemonProcesses(`${path}/`)) await endProcess(process, 2_000).catch(() => undefined);
      for (const entry of mountInfo().reverse()) if (entry.mountpoint.startsWith(`${path}/`)) umount2(entry.mountpoint, MNT_DETACH);
      rmSync(path, { recursive: true, force: true });
    },
  };
}

/** The command of the tiny daemon, as one executable file. */
export function tinyNydusd(root: string, orders: object = {}): { command: string; order(orders: object): void } {
  const ordersFile = join(root, "orders.json");
  const command = join(root, "tiny-nydusd");
  const program = join(import.meta.dirname, "tiny-nydusd.ts");
  writeFileSync(ordersFile, JSON.stringify(orders));
  writeFileSync(
    command,
    `#!/bin/sh\nTINY_NYDUSD_ORDERS=${ordersFile} exec ${process.execPath} --conditions=@nydus-ts/source ${program} "$@"\n`,
  );
  chmodSync(command, 0o755);
  return { command, order: (next) => writeFileSync(ordersFile, JSON.stringify(next)) };
}

/** Waits until `look` answers something; for what happens in the background. */
export async function until<T>(
  look: () => T | undefined | false | Promise<T | undefined | false>,
  what: string,
  deadlineMs = 10_000,
): Promise<T> {
  const end = performance.now() + deadlineMs;
  for (;;) {
    const seen = await look();
    if (seen !== undefined && seen !== false) return seen;
    if (performance.now() > end) throw new Error(`not within ${deadlineMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

export function makeDirectories(...paths: string[]): void {
  for (const path of paths) mkdirSync(path, { recursive: true });
}

export const readText = (path: string): string => readFileSync(path, "utf8");
