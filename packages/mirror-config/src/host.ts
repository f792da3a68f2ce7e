import { FAILURE_LIMIT_DEFAULT, HEALTH_CHECK_INTERVAL_DEFAULT_MS } from "./limits.ts";

export type Capability = "pull" | "resolve" | "push" | "referrers";
export const CAPABILITIES: readonly Capability[] = ["pull", "resolve", "push", "referrers"];

/** One server that may answer for a registry: a mirror, or the registry itself (`origin`). */
export interface HostConfig {
  readonly kind: "mirror" | "origin";
  readonly scheme: "http" | "https";
  /** `name` or `name:port`, as it stands in the URL. */
  readonly host: string;
  /** What precedes `/<repository>/…`: `/v2`, or whatever the file says with `override_path`. No slash at the end. */
  readonly basePath: string;
  readonly capabilities: readonly Capability[];
  /** PEM files that are trusted beside the system's roots. */
  readonly caFiles: readonly string[];
  /** Client certificates; without `keyFile` the certificate's file holds the key too. */
  readonly clientCertificates: readonly { readonly certFile: string; readonly keyFile?: string }[];
  readonly skipVerify: boolean;
  /** Set on every request to this host. */
  readonly headers: Readonly<Record<string, readonly string[]>>;
  /** Token requests go through this host too. */
  readonly authThrough: boolean;
  /**
   * Whether the password of the registry may be given to this host when it asks (Basic, or a token realm of its own).
   * True for nydusd's JSON mirrors, as nydusd does; for hosts.toml, as containerd does, only with `auth_through`.
   */
  readonly sharesCredentials: boolean;
  /** Health URL; absent: `<host><basePath>/`. */
  readonly pingUrl?: string;
  /** Connection set-up; absent: the client's default. */
  readonly connectTimeoutMs?: number;
  readonly failureLimit: number;
  readonly healthCheckIntervalMs: number;
  /** containerd tells a mirror which registry is meant: `?ns=docker.io`. */
  readonly namespace?: string;
}

/** `https://mirror.example/prefix/v2`: names a host in metrics and messages. */
export function hostUrl(config: HostConfig): string {
  return `${config.scheme}://${config.host}${config.basePath}`;
}

/** The registry itself, with everything else at its default. */
export function originHost(host: string, scheme: "http" | "https", overrides: Partial<HostConfig> = {}): HostConfig {
  return {
    kind: "origin",
    scheme,
    host,
    basePath: "/v2",
    capabilities: CAPABILITIES,
    caFiles: [],
    clientCertificates: [],
    skipVerify: false,
    headers: {},
    authThrough: false,
    sharesCredentials: true,
    failureLimit: FAILURE_LIMIT_DEFAULT,
    healthCheckIntervalMs: HEALTH_CHECK_INTERVAL_DEFAULT_MS,
    ...overrides,
  };
}

/** containerd's rule: a loopback address is plain HTTP unless told otherwise. */
export function isLoopback(host: string): boolean {
  const name = host.startsWith("[") ? host.slice(1, host.indexOf("]")) : host.replace(/:\d+$/, "");
  return name === "localhost" || name.endsWith(".localhost") || name === "::1" || /^127(\.\d{1,3}){3}$/.test(name);
}
