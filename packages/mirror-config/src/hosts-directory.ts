import { readdir, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { MirrorConfigError } from "./errors.ts";
import { originHost } from "./host.ts";
import { type LoadedHosts, parseHostsFile } from "./hosts-file.ts";

/**
 * Folders below a hosts directory that may describe a registry, in order: `host_port_`, `host:port`, `host`, `_default`.
 * Docker Hub is looked for under `docker.io`, `index.docker.io` and `registry-1.docker.io`.
 */
export function hostFolders(registryHost: string): string[] {
  if (/[/\\\0]/.test(registryHost) || registryHost.startsWith(".")) return ["_default"];
  const hub = ["docker.io", "index.docker.io", "registry-1.docker.io"];
  if (hub.includes(registryHost)) return [...hub, "_default"];
  const port = /^(.*):(\d+)$/.exec(registryHost);
  return port === null ? [registryHost, "_default"] : [`${port[1]}_${port[2]}_`, registryHost, "_default"];
}

/**
 * What hosts directories say about a registry: the first directory with a folder for it decides. A folder without hosts.toml is read as
 * docker's: `*.crt` are CA files, `*.cert` with `*.key` client certificates.
 *
 * @returns undefined if no directory has an entry
 * @throws MirrorConfigError MIRROR_CONFIG_INVALID, MIRROR_CONFIG_UNREADABLE
 */
export async function loadHosts(directories: readonly string[], registryHost: string): Promise<LoadedHosts | undefined> {
  for (const directory of directories) {
    for (const folder of hostFolders(registryHost)) {
      const path = join(directory, folder);
      const found = await stat(path).catch((cause: NodeJS.ErrnoException) => {
        if (cause.code === "ENOENT" || cause.code === "ENOTDIR") return undefined;
        throw unreadable(path, cause);
      });
      if (found?.isDirectory()) return loadFolder(path, registryHost);
    }
  }
  return undefined;
}

async function loadFolder(folder: string, registryHost: string): Promise<LoadedHosts | undefined> {
  const file = join(folder, "hosts.toml");
  try {
    return parseHostsFile(await readFile(file, "utf8"), file, registryHost);
  } catch (error) {
    if (error instanceof MirrorConfigError) throw error;
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw unreadable(file, error);
  }
  return certificateFolder(folder, registryHost);
}

async function certificateFolder(folder: string, registryHost: string): Promise<LoadedHosts | undefined> {
  const names = (
    await readdir(folder).catch((cause: unknown) => {
      throw unreadable(folder, cause);
    })
  ).sort();
  const caFiles = names.filter((name) => name.endsWith(".crt")).map((name) => join(folder, name));
  const clientCertificates = names
    .filter((name) => name.endsWith(".cert") && names.includes(name.replace(/\.cert$/, ".key")))
    .map((name) => ({ certFile: join(folder, name), keyFile: join(folder, name.replace(/\.cert$/, ".key")) }));
  if (caFiles.length === 0 && clientCertificates.length === 0) return undefined;
  return {
    file: folder,
    mirrors: [],
    server: originHost(registryHost, "https", { caFiles, clientCertificates }),
    serverNamed: false,
    warnings: [],
  };
}

function unreadable(file: string, cause: unknown): MirrorConfigError {
  const { code } = cause as NodeJS.ErrnoException;
  return new MirrorConfigError("MIRROR_CONFIG_UNREADABLE", [{ file, key: "", message: `cannot be read (${code ?? "unknown error"})` }], {
    cause,
  });
}
