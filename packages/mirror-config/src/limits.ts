/** Bounds of this package. Each names its unit; what happens beyond it stands in the README. */

/** A hosts.toml or a JSON list larger than this is refused. */
export const CONFIG_BYTES_MAX = 1024 * 1024;

/** Hosts of one registry. */
export const HOSTS_MAX = 64;

/** nydusd's defaults for `failure_limit` and `health_check_interval`. */
export const FAILURE_LIMIT_DEFAULT = 5;
export const HEALTH_CHECK_INTERVAL_DEFAULT_MS = 5_000;

/** A health probe that has not answered by then is a failure. */
export const PROBE_DEADLINE_MS = 3_000;

/** The poll that catches what inotify does not tell (other machines' writes, replaced parents). */
export const POLL_INTERVAL_DEFAULT_MS = 2_000;
