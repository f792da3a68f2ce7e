import { type HostConfig, type LoadedHosts, watchHosts } from "@nydus-ts/mirror-config";

export interface WatchedHosts extends AsyncDisposable {
  readonly hosts: readonly HostConfig[];
  /** The file in force, or what is used instead. */
  readonly source: string;
  onChange(listener: (hosts: readonly HostConfig[]) => void): void;
}

/** Follows the hosts directories of a registry: the directory's entry while there is a valid one, `fallback` while there is none. */
export async function watchRegistryHosts(options: {
  readonly directories: readonly string[];
  readonly registryHost: string;
  /** The registry as the configuration describes it; a hosts file's `server` replaces it. */
  readonly origin: HostConfig;
  readonly fallback: () => readonly HostConfig[];
  readonly onWarning: (line: string) => void;
}): Promise<WatchedHosts> {
  const listeners: ((hosts: readonly HostConfig[]) => void)[] = [];
  const watcher = await watchHosts({
    directories: options.directories,
    registryHost: options.registryHost,
    onChange: () => {
      for (const listener of listeners) listener(current());
    },
    onProblem: options.onWarning,
  });
  const current = (): readonly HostConfig[] => {
    const loaded = watcher.loaded;
    if (loaded === undefined) return options.fallback();
    return [...loaded.mirrors, serverConfig(loaded, options.origin)];
  };
  return {
    get hosts() {
      return current();
    },
    get source() {
      return watcher.loaded?.file ?? "the configuration (no hosts directory has this registry)";
    },
    onChange: (listener) => void listeners.push(listener),
    [Symbol.asyncDispose]: () => watcher[Symbol.asyncDispose](),
  };
}

/** The registry as the file and the configuration describe it together; a `server` of another name stands for itself. */
export function serverConfig(loaded: LoadedHosts, origin: HostConfig): HostConfig {
  const { server } = loaded;
  if (server === undefined) return origin;
  if (loaded.serverNamed && server.host !== origin.host) return server;
  return {
    ...server,
    host: origin.host,
    scheme: loaded.serverNamed ? server.scheme : origin.scheme,
    caFiles: [...new Set([...server.caFiles, ...origin.caFiles])],
    skipVerify: server.skipVerify || origin.skipVerify,
  };
}
