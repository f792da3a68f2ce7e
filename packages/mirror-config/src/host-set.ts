import { type Capability, type HostConfig, hostUrl } from "./host.ts";
import { PROBE_DEADLINE_MS } from "./limits.ts";

/** closed: in use. suspect: failed lately, one request at a time tries it. open: bypassed until a probe succeeds. */
export type BreakerState = "closed" | "suspect" | "open";

export interface HostHealth {
  readonly url: string;
  readonly kind: HostConfig["kind"];
  readonly state: BreakerState;
  readonly consecutiveFailures: number;
  readonly successes: number;
  readonly failures: number;
  readonly bypasses: number;
  readonly probes: number;
  readonly lastFailure?: string;
}

/** Asks a host whether it is well. Any answer below 500 is `true`. Must end when `signal` fires. */
export type Probe = (config: HostConfig, signal: AbortSignal) => Promise<boolean>;

/**
 * One host with its circuit breaker. Failures in a row open it; a success closes it. An open host costs no reader anything:
 * after `healthCheckIntervalMs` the next request starts one probe beside itself and goes to the other hosts meanwhile.
 * Nothing runs while nobody asks. The origin has no breaker: there is nothing to turn to.
 */
export class Host {
  readonly config: HostConfig;
  readonly #now: () => number;
  #consecutiveFailures = 0;
  #retryAtMs = 0;
  #trialRunning = false;
  #probeRunning = false;
  #successes = 0;
  #failures = 0;
  #bypasses = 0;
  #probes = 0;
  #lastFailure: string | undefined;

  constructor(config: HostConfig, now: () => number) {
    this.config = config;
    this.#now = now;
  }

  get state(): BreakerState {
    if (this.config.kind === "origin" || this.#consecutiveFailures === 0) return "closed";
    return this.#consecutiveFailures >= this.config.failureLimit ? "open" : "suspect";
  }

  /** Whether a request may go here now. Every `true` is followed by exactly one `succeed`, `fail` or `release`. */
  tryAcquire(): boolean {
    const state = this.state;
    if (state === "closed") return true;
    if (state === "open" || this.#trialRunning) {
      this.#bypasses++;
      return false;
    }
    this.#trialRunning = true;
    return true;
  }

  succeed(): void {
    this.#successes++;
    this.#trialRunning = false;
    this.#consecutiveFailures = 0;
  }

  /** @param reason  one line without credentials; shown by `health()` */
  fail(reason: string): void {
    this.#failures++;
    this.#trialRunning = false;
    this.#consecutiveFailures++;
    this.#lastFailure = reason;
    if (this.state === "open") this.#retryAtMs = this.#now() + this.config.healthCheckIntervalMs;
  }

  /** The request ended without saying anything about the host (aborted, refused locally). */
  release(): void {
    this.#trialRunning = false;
  }

  /** True when an open host is due for a probe; claims it. */
  claimProbe(): boolean {
    if (this.state !== "open" || this.#probeRunning || this.#now() < this.#retryAtMs) return false;
    this.#probeRunning = true;
    this.#probes++;
    return true;
  }

  /** Half-open: after a good probe the host is a suspect with one trial before it, not at once everybody's first choice. */
  probed(well: boolean): void {
    this.#probeRunning = false;
    if (well) this.#consecutiveFailures = Math.min(1, this.config.failureLimit - 1);
    else this.#retryAtMs = this.#now() + this.config.healthCheckIntervalMs;
  }

  health(): HostHealth {
    return {
      url: hostUrl(this.config),
      kind: this.config.kind,
      state: this.state,
      consecutiveFailures: this.#consecutiveFailures,
      successes: this.#successes,
      failures: this.#failures,
      bypasses: this.#bypasses,
      probes: this.#probes,
      ...(this.#lastFailure === undefined ? {} : { lastFailure: this.#lastFailure }),
    };
  }
}

export interface HostSetOptions {
  /** In order of preference; the origin, if it may be asked at all, last. */
  readonly hosts: readonly HostConfig[];
  readonly probe: Probe;
  /** Milliseconds that never go back; `performance.now` by default. */
  readonly now?: () => number;
}

/** The hosts of one registry in order, with their health. `replace` exchanges the list while requests run. */
export class HostSet {
  readonly #probe: Probe;
  readonly #now: () => number;
  readonly #closed = new AbortController();
  readonly #probes = new Set<Promise<void>>();
  #hosts: readonly Host[];

  constructor(options: HostSetOptions) {
    this.#probe = options.probe;
    this.#now = options.now ?? (() => performance.now());
    this.#hosts = options.hosts.map((config) => new Host(config, this.#now));
  }

  get configs(): readonly HostConfig[] {
    return this.#hosts.map((host) => host.config);
  }

  /**
   * The hosts a request may try, in order; each is acquired only when the caller comes to it. Hosts that are open are left out,
   * and a probe starts for those that are due.
   */
  *candidates(capability: Capability): Generator<Host> {
    for (const host of this.#hosts) {
      if (!host.config.capabilities.includes(capability)) continue;
      if (host.claimProbe()) this.#startProbe(host);
      if (host.tryAcquire()) yield host;
    }
  }

  /** Takes a new list. A host whose configuration did not change keeps its health; requests under way end on the old one. */
  replace(hosts: readonly HostConfig[]): void {
    const known = new Map(this.#hosts.map((host) => [JSON.stringify(host.config), host]));
    this.#hosts = hosts.map((config) => known.get(JSON.stringify(config)) ?? new Host(config, this.#now));
  }

  health(): HostHealth[] {
    return this.#hosts.map((host) => host.health());
  }

  /** Ends probes; closing twice is harmless. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed.abort();
    await Promise.all(this.#probes);
  }

  #startProbe(host: Host): void {
    if (this.#closed.signal.aborted) {
      host.probed(false);
      return;
    }
    const deadline = new AbortController();
    const timer = setTimeout(() => deadline.abort(), PROBE_DEADLINE_MS);
    timer.unref();
    const running = this.#probe(host.config, AbortSignal.any([deadline.signal, this.#closed.signal]))
      .then(
        (well) => host.probed(well),
        () => host.probed(false),
      )
      .finally(() => {
        clearTimeout(timer);
        this.#probes.delete(running);
      });
    this.#probes.add(running);
  }
}
