import { type FSWatcher, watch } from "node:fs";
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { formatProblem, MirrorConfigError } from "./errors.ts";
import { hostFolders, loadHosts } from "./hosts-directory.ts";
import type { LoadedHosts } from "./hosts-file.ts";
import { POLL_INTERVAL_DEFAULT_MS } from "./limits.ts";

export interface WatchHostsOptions {
  readonly directories: readonly string[];
  readonly registryHost: string;
  /** What the directories say has changed and is valid (or gone: then `loaded` is undefined). */
  readonly onChange: (loaded: LoadedHosts | undefined) => void;
  /** One line for a person: a broken file and what is used instead, unknown keys, a recovery. */
  readonly onProblem: (line: string) => void;
  /** For what inotify does not tell; 0 switches polling off. */
  readonly pollIntervalMs?: number;
}

/**
 * Follows what hosts directories say about one registry. A broken file leaves the last good one in force and is reported once for each
 * change of the file. Neither its watchers nor its timer keep the process alive.
 */
export class HostsWatcher {
  readonly #options: WatchHostsOptions;
  readonly #watchers = new Map<string, FSWatcher>();
  #timer: NodeJS.Timeout | undefined;
  #signature = "";
  #loaded: LoadedHosts | undefined;
  #running: Promise<void> | undefined;
  #again = false;
  #closed = false;
  #broken = false;

  constructor(options: WatchHostsOptions) {
    this.#options = options;
  }

  /** The entry in force; undefined if there is none. */
  get loaded(): LoadedHosts | undefined {
    return this.#loaded;
  }

  /** Reads once, then follows. */
  async start(): Promise<void> {
    await this.check();
    const intervalMs = this.#options.pollIntervalMs ?? POLL_INTERVAL_DEFAULT_MS;
    if (intervalMs > 0) this.#timer = setInterval(() => void this.check(), intervalMs).unref();
  }

  /** Looks now instead of when told; returns after changes have been taken over. */
  check(): Promise<void> {
    if (this.#running !== undefined) {
      this.#again = true;
      return this.#running;
    }
    this.#running = this.#look().finally(() => {
      this.#running = undefined;
    });
    return this.#running;
  }

  /** Closing twice is harmless. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    clearInterval(this.#timer);
    for (const watcher of this.#watchers.values()) watcher.close();
    this.#watchers.clear();
    await this.#running;
  }

  async #look(): Promise<void> {
    do {
      this.#again = false;
      if (this.#closed) return;
      const folders = this.#folders();
      this.#watchAll(folders);
      const signature = await signatureOf(folders);
      if (signature !== this.#signature) {
        this.#signature = signature;
        await this.#load();
      }
    } while (this.#again);
  }

  async #load(): Promise<void> {
    const { directories, registryHost, onChange, onProblem } = this.#options;
    try {
      const loaded = await loadHosts(directories, registryHost);
      if (this.#closed) return;
      const changed = JSON.stringify(loaded) !== JSON.stringify(this.#loaded);
      this.#loaded = loaded;
      if (this.#broken) onProblem(`${loaded?.file ?? directories.join(", ")}: valid again, in force`);
      this.#broken = false;
      if (!changed) return;
      for (const warning of loaded?.warnings ?? []) onProblem(warning);
      onChange(loaded);
    } catch (error) {
      if (!(error instanceof MirrorConfigError)) throw error;
      this.#broken = true;
      for (const problem of error.problems) onProblem(formatProblem(problem));
      onProblem(
        this.#loaded === undefined
          ? `hosts of ${registryHost}: the broken file is not used; the configuration without hosts directory is in force`
          : `hosts of ${registryHost}: the last good state of ${this.#loaded.file} stays in force`,
      );
    }
  }

  #folders(): string[] {
    return this.#options.directories.flatMap((directory) => [
      directory,
      ...hostFolders(this.#options.registryHost).map((folder) => join(directory, folder)),
    ]);
  }

  /** A folder that is not there yet is tried again at the next look; its parent's watcher tells when it comes. */
  #watchAll(folders: readonly string[]): void {
    for (const folder of folders) {
      if (this.#watchers.has(folder)) continue;
      try {
        const watcher = watch(folder, { persistent: false });
        const forget = (): void => {
          watcher.close();
          if (this.#watchers.get(folder) === watcher) this.#watchers.delete(folder);
        };
        watcher.on("error", forget);
        watcher.on("change", (event) => {
          // A removed or replaced folder keeps its watcher on the old inode: the look takes a new one, so it is forgotten before.
          if (event === "rename") forget();
          void this.check();
        });
        this.#watchers.set(folder, watcher);
      } catch {
        // Not there, or no inotify watches left: polling sees it.
      }
    }
  }
}

/** Starts a watcher; a broken file does not make it fail. */
export async function watchHosts(options: WatchHostsOptions): Promise<HostsWatcher> {
  const watcher = new HostsWatcher(options);
  await watcher.start();
  return watcher;
}

/** Identity, size and time of everything that may matter; changes whenever one of the files does. */
async function signatureOf(folders: readonly string[]): Promise<string> {
  const parts: string[] = [];
  for (const folder of folders) {
    const names = await readdir(folder).catch(() => undefined);
    if (names === undefined) continue;
    for (const name of names.filter((one) => /^hosts\.toml$|\.(crt|cert|key)$/.test(one)).sort()) {
      const file = await stat(join(folder, name), { bigint: true }).catch(() => undefined);
      parts.push(`${folder}/${name} ${file?.ino} ${file?.size} ${file?.mtimeNs} ${file?.ctimeNs}`);
    }
    parts.push(folder);
  }
  return parts.join("\n");
}
