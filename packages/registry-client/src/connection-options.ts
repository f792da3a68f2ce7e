import type { ProxyOptions } from "./http/proxy.ts";
import type { HostTraffic } from "./http/traffic.ts";

/** How the hosts of a back end are reached. Source: spec/nydusd.md 3.3.3 */
export interface ConnectionOptions {
  readonly proxy?: ProxyOptions;
  readonly caFiles?: readonly string[];
  readonly skipVerify?: boolean;
  /** Longest silence of a connection; 0 = our default. */
  readonly timeoutMs?: number;
  /** 0 = our default. */
  readonly connectTimeoutMs?: number;
  /** 0 = our default. */
  readonly retryLimit?: number;
  /** Shared with other clients of the process; default one of its own. */
  readonly traffic?: HostTraffic;
}
