import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findMount, MNT_DETACH, MS_RDONLY, mount, umount2 } from "@nydus-ts/linux";

export interface Target {
  readonly name: string;
  readonly path: string;
}

/** A folder with mounts and the daemons behind them; all of it goes at the end, whatever happened. */
export class FuseMounts implements AsyncDisposable {
  readonly directory: string;
  readonly #children = new Map<string, ChildProcess>();
  readonly #mounts = new Map<string, string>();

  constructor(prefix: string) {
    this.directory = mkdtempSync(join(tmpdir(), prefix));
  }

  erofs(bootstrap: string, dataFile: string): Target {
    const target = this.#target("erofs");
    mount({ source: bootstrap, target: target.path, type: "erofs", flags: MS_RDONLY, options: `device=${dataFile}` });
    return target;
  }

  /** nydusd of a folder of executables, once it serves. `config`: its JSON; `threads`: of the FUSE engine. */
  async nydusd(
    name: string,
    options: { readonly binaries: string; readonly bootstrap: string; readonly device: unknown; readonly threads: string },
  ): Promise<Target> {
    const target = this.#target(name);
    const config = join(this.directory, `${name}.json`);
    writeFileSync(config, JSON.stringify({ device: options.device, mode: "direct" }));
    // The original must raise the limit of open files, or be told not to.
    const args = ["--rlimit-nofile", "0", "--config", config, "--bootstrap", options.bootstrap, "--log-level", "error"];
    const command = ["fuse", ...args, "--thread-num", options.threads, "--mountpoint", target.path];
    const child = spawn(join(options.binaries, "nydusd"), command, { stdio: "inherit" });
    this.#children.set(name, child);
    for (const until = performance.now() + 20_000; findMount(target.path) === undefined; ) {
      if (child.exitCode !== null || performance.now() > until) throw new Error(`${name} does not serve`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    return target;
  }

  /** Another process of the benchmark, ended with it. @returns its first line of output */
  async helper(script: string, args: readonly string[]): Promise<string> {
    const child = spawn(join(import.meta.dirname, "../../bin/node"), [script, ...args], { stdio: ["ignore", "pipe", "inherit"] });
    this.#children.set(script, child);
    const [line] = (await once(child.stdout as NodeJS.ReadableStream, "data")) as [Buffer];
    return line.toString().trim();
  }

  /** Ends one mount and the daemon behind it. */
  async end({ name }: Target): Promise<void> {
    const child = this.#children.get(name);
    this.#children.delete(name);
    child?.kill("SIGTERM");
    if (child !== undefined && child.exitCode === null && child.signalCode === null) await once(child, "exit");
    const path = this.#mounts.get(name);
    this.#mounts.delete(name);
    while (path !== undefined && findMount(path) !== undefined) umount2(path, MNT_DETACH);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const name of new Set([...this.#children.keys(), ...this.#mounts.keys()])) await this.end({ name, path: "" });
    rmSync(this.directory, { recursive: true, force: true });
  }

  #target(name: string): Target {
    const path = join(this.directory, `mnt-${name}`);
    mkdirSync(path, { recursive: true });
    this.#mounts.set(name, path);
    return { name, path };
  }
}
