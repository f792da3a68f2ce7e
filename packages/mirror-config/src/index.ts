export { formatProblem, MirrorConfigError, type MirrorConfigErrorCode, type Problem } from "./errors.ts";
export { CAPABILITIES, type Capability, type HostConfig, hostUrl, isLoopback, originHost } from "./host.ts";
export { type BreakerState, type Host, type HostHealth, HostSet, type HostSetOptions, type Probe } from "./host-set.ts";
