export { formatProblem, MirrorConfigError, type MirrorConfigErrorCode, type Problem } from "./errors.ts";
export { CAPABILITIES, type Capability, type HostConfig, hostUrl, isLoopback, originHost } from "./host.ts";
export { type BreakerState, type Host, type HostHealth, HostSet, type HostSetOptions, type Probe } from "./host-set.ts";
export { hostFolders, loadHosts } from "./hosts-directory.ts";
export { type LoadedHosts, parseHostsFile } from "./hosts-file.ts";
export { parseMirrors } from "./json-mirrors.ts";
export { type HostsWatcher, type WatchHostsOptions, watchHosts } from "./watch.ts";
