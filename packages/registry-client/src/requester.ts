import { type Host, type HostConfig, type HostHealth, HostSet, hostUrl } from "@nydus-ts/mirror-config";
import { TokenService } from "./auth/token-service.ts";
import { anonymous, type Credentials } from "./credentials/credentials.ts";
import { Endpoint, type HostSigning } from "./endpoint.ts";
import { RegistryError } from "./errors.ts";
import type { Exchange } from "./exchange.ts";
import type { Deadline } from "./http/deadline.ts";
import { type Answer, Transport, type TransportOptions } from "./http/transport.ts";
import { HEDGE_MAX_MS, HEDGE_MIN_MS, REDIRECTS_MAX, RETRY_BASE_MS, RETRY_LIMIT_DEFAULT, RETRY_MAX_MS } from "./limits.ts";
import { RedirectCache } from "./redirects.ts";
import { type StatusHints, statusError } from "./status.ts";

export interface RequesterOptions extends TransportOptions {
  /** The registry's name; credentials are kept under it. */
  readonly registryHost: string;
  /** In order; the registry itself last. */
  readonly hosts: readonly HostConfig[];
  readonly credentials?: Credentials;
  /** Further attempts after the first, of a call that somebody waits for. Prefetch gets one. */
  readonly retryLimit?: number;
  /** Rewrites a redirect's target (nydusd's `blob_url_scheme`, `blob_redirected_host`). */
  readonly rewriteRedirect?: (target: URL) => URL;
  /** For object stores, which want no tokens. */
  readonly signing?: HostSigning;
  /** What a person can do about a status, in place of what is said of registries. */
  readonly hints?: StatusHints;
  readonly random?: () => number;
  readonly now?: () => number;
}

interface Launch<T> {
  readonly host: Host;
  readonly controller: AbortController;
  headerSeen: boolean;
  outcome: Promise<{ launch: Launch<T>; value: T } | { launch: Launch<T>; error: unknown }>;
}

/** A request over hosts in turn, with authorisation, redirects, retries and a deadline. What the answer is worth `use` decides. */
export class Requester {
  readonly hosts: HostSet;
  readonly tokens: TokenService;
  readonly transport: Transport;
  readonly #options: RequesterOptions;
  readonly #endpoints = new Map<string, Endpoint>();
  readonly #redirects: RedirectCache;
  readonly #headerMs = new Map<string, number>();
  #credentials: Credentials;

  constructor(options: RequesterOptions) {
    this.#options = options;
    this.#credentials = options.credentials ?? anonymous;
    this.transport = new Transport(options);
    this.tokens = new TokenService({ transport: this.transport, deadlineMs: 30_000 });
    this.#redirects = new RedirectCache();
    this.hosts = new HostSet({
      hosts: options.hosts,
      probe: (config, signal) => this.#probe(config, signal),
      ...(options.now === undefined ? {} : { now: options.now }),
    });
  }

  get health(): HostHealth[] {
    return this.hosts.health();
  }

  get credentials(): Credentials {
    return this.#credentials;
  }

  /** From the next request on; tokens of the old account are forgotten. */
  setCredentials(credentials: Credentials): void {
    this.#credentials = credentials;
    this.tokens.clear();
  }

  /** Takes new hosts while requests run; those go on with the old ones. */
  setHosts(hosts: readonly HostConfig[]): void {
    this.hosts.replace(hosts);
    const keys = new Set(hosts.map((config) => JSON.stringify(config)));
    for (const key of this.#endpoints.keys()) if (!keys.has(key)) this.#endpoints.delete(key);
  }

  /**
   * Sends until `use` has made something of a good answer. `use` may run on several answers at once (a slow mirror is raced), so it keeps
   * its state to itself; it is retried when it throws a retryable RegistryError.
   *
   * @throws RegistryError of every code
   */
  async perform<T>(exchange: Exchange, deadline: Deadline, use: (answer: Answer, endpoint: Endpoint) => Promise<T>): Promise<T> {
    const retries = exchange.once === true ? 0 : exchange.priority !== "demand" ? Math.min(1, this.#retryLimit) : this.#retryLimit;
    for (let attempt = 1; ; attempt++) {
      if (deadline.ended) throw deadline.error(exchange.what);
      try {
        // The last attempt leaves the proxy aside: the content may be well while the proxy is not.
        return await this.#turn(attempt > 1 && attempt > retries ? { ...exchange, direct: true } : exchange, attempt, deadline, use);
      } catch (error) {
        if (deadline.ended) throw deadline.error(exchange.what, { cause: error, ...requestOf(error) });
        if (!(error instanceof RegistryError) || !error.retryable || attempt > retries) throw error;
        const waitMs = error.retryAfterMs ?? this.#backoffMs(attempt);
        if (waitMs >= deadline.remainingMs) throw error;
        await deadline.sleep(waitMs, exchange.what, { cause: error, ...requestOf(error) });
      }
    }
  }

  /** The error an answer stands for, as `perform` would throw it. */
  statusError(answer: Answer, exchange: Pick<Exchange, "what" | "method">): Promise<RegistryError> {
    return statusError(answer, exchange, this.#credentials.source, this.transport, this.#options.hints);
  }

  /** Ends everything that runs; closing twice is harmless. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.hosts[Symbol.asyncDispose]();
    await this.transport[Symbol.asyncDispose]();
  }

  get #retryLimit(): number {
    return this.#options.retryLimit || RETRY_LIMIT_DEFAULT;
  }

  /** Exponential with full jitter; the first repetition comes soon, for the common case of a stale connection. */
  #backoffMs(attempt: number): number {
    const random = this.#options.random ?? Math.random;
    const ceilingMs = Math.min(RETRY_MAX_MS, RETRY_BASE_MS * 2 ** (attempt - 1));
    return ceilingMs / 2 + (random() * ceilingMs) / 2;
  }

  /** One pass over the hosts. The next host is asked when one fails, or beside a mirror that does not answer in time. */
  async #turn<T>(
    exchange: Exchange,
    attempt: number,
    deadline: Deadline,
    use: (answer: Answer, endpoint: Endpoint) => Promise<T>,
  ): Promise<T> {
    const candidates = this.hosts.candidates(exchange.capability);
    const running = new Set<Launch<T>>();
    let last: unknown;
    let newest = this.#launchNext(candidates, running, exchange, attempt, deadline, use);
    try {
      while (running.size > 0) {
        const settled = await this.#firstOf(running, newest, exchange);
        if (settled === undefined) {
          // The newest is a mirror and still silent: the next host runs beside it.
          const next = this.#launchNext(candidates, running, exchange, attempt, deadline, use);
          newest = next;
          continue;
        }
        running.delete(settled.launch);
        if ("value" in settled) {
          settled.launch.host.succeed();
          for (const loser of running) if (!loser.headerSeen) loser.host.fail("slower than the next host by more than its usual time");
          return settled.value;
        }
        judge(settled.launch.host, settled.error, deadline);
        if (deadline.ended) throw settled.error;
        // The registry's own word counts more than a mirror's.
        if (last === undefined || settled.launch.host.config.kind === "origin") last = settled.error;
        if (exchange.once === true) throw settled.error;
        if (running.size === 0) newest = this.#launchNext(candidates, running, exchange, attempt, deadline, use);
      }
    } finally {
      for (const launch of running) {
        launch.host.release();
        launch.controller.abort();
      }
    }
    throw (
      last ??
      new RegistryError(
        "REGISTRY_UNREACHABLE",
        `${exchange.what}: no host of ${this.#options.registryHost} offers ${exchange.capability}`,
        { hint: "look at the hosts configuration" },
      )
    );
  }

  #launchNext<T>(
    candidates: Generator<Host>,
    running: Set<Launch<T>>,
    exchange: Exchange,
    attempt: number,
    deadline: Deadline,
    use: (answer: Answer, endpoint: Endpoint) => Promise<T>,
  ): Launch<T> | undefined {
    const next = candidates.next();
    if (next.done) return undefined;
    const launch = { host: next.value, controller: new AbortController(), headerSeen: false } as Launch<T>;
    const signal = AbortSignal.any([deadline.signal, launch.controller.signal]);
    const startMs = performance.now();
    const endpoint = this.#endpoint(next.value.config);
    const onHeader = (): void => {
      launch.headerSeen = true;
      const url = hostUrl(endpoint.config);
      this.#headerMs.set(url, 0.8 * (this.#headerMs.get(url) ?? 0) + 0.2 * (performance.now() - startMs));
    };
    launch.outcome = this.#onHost(endpoint, exchange, attempt, deadline, signal, onHeader, use).then(
      (value) => ({ launch, value }),
      (error: unknown) => ({ launch, error }),
    );
    running.add(launch);
    return launch;
  }

  /** The first launch to settle, or undefined when the newest has been silent for longer than a mirror may be. */
  async #firstOf<T>(
    running: Set<Launch<T>>,
    newest: Launch<T> | undefined,
    exchange: Exchange,
  ): Promise<Awaited<Launch<T>["outcome"]> | undefined> {
    const outcomes = [...running].map((launch) => launch.outcome);
    if (newest === undefined || newest.host.config.kind !== "mirror" || exchange.once === true || newest.headerSeen)
      return Promise.race(outcomes);
    const patienceMs = Math.min(HEDGE_MAX_MS, Math.max(HEDGE_MIN_MS, 3 * (this.#headerMs.get(hostUrl(newest.host.config)) ?? 0)));
    let timer: NodeJS.Timeout | undefined;
    const silent = new Promise<"silent">((resolve) => {
      timer = setTimeout(() => resolve("silent"), patienceMs);
    });
    const first = await Promise.race([...outcomes, silent]);
    clearTimeout(timer);
    if (first !== "silent") return first;
    return newest.headerSeen ? Promise.race(outcomes) : undefined;
  }

  async #onHost<T>(
    endpoint: Endpoint,
    exchange: Exchange,
    attempt: number,
    deadline: Deadline,
    signal: AbortSignal,
    onHeader: () => void,
    use: (answer: Answer, endpoint: Endpoint) => Promise<T>,
  ): Promise<T> {
    const answer = await this.#follow(endpoint, exchange, attempt, deadline, signal);
    onHeader();
    let kept = false;
    try {
      if (answer.status >= 300 && !exchange.accept?.includes(answer.status)) throw await this.statusError(answer, exchange);
      const value = await use(answer, endpoint);
      kept = exchange.keepOpen === true;
      return value;
    } finally {
      if (!kept) await answer.discard();
    }
  }

  /** Follows redirects; a remembered target is tried first and forgotten when it fails. */
  async #follow(endpoint: Endpoint, exchange: Exchange, attempt: number, deadline: Deadline, signal: AbortSignal): Promise<Answer> {
    const key = exchange.redirectKey === undefined ? undefined : `${hostUrl(endpoint.config)} ${exchange.redirectKey}`;
    const known = key === undefined ? undefined : this.#redirects.get(key);
    if (key !== undefined && known !== undefined) {
      try {
        const answer = await this.#target(endpoint, exchange, known, attempt, signal);
        if (answer.status < 300) return answer;
        await answer.discard();
      } catch (error) {
        if (signal.aborted) throw error;
      }
      this.#redirects.delete(key);
    }
    let answer = await endpoint.send(exchange, deadline, signal, attempt);
    for (let hop = 0; isRedirect(answer); hop++) {
      await answer.discard();
      if (hop >= REDIRECTS_MAX)
        throw new RegistryError("REGISTRY_PROTOCOL", `${exchange.what}: more than ${REDIRECTS_MAX} redirects`, { request: answer.request });
      const target = this.#redirectTarget(answer);
      if (target.origin === endpoint.urlOf("/").origin) {
        answer = await endpoint.send({ ...exchange, path: target }, deadline, signal, attempt);
        continue;
      }
      answer = await this.#target(endpoint, exchange, target, attempt, signal);
      if (key !== undefined && answer.status < 300) this.#redirects.set(key, target);
    }
    return answer;
  }

  #redirectTarget(answer: Answer): URL {
    const location = answer.header("location") as string;
    let target: URL;
    try {
      target = new URL(location, answer.url);
    } catch {
      throw new RegistryError("REGISTRY_PROTOCOL", "a redirect leads to something that is not a URL", { request: answer.request });
    }
    if (target.protocol !== "http:" && target.protocol !== "https:")
      throw new RegistryError("REGISTRY_PROTOCOL", "a redirect leads away from HTTP", { request: answer.request });
    return this.#options.rewriteRedirect?.(target) ?? target;
  }

  /** A redirect's target is another party: no Authorization, no client certificate, none of the host's headers. */
  #target(endpoint: Endpoint, exchange: Exchange, url: URL, attempt: number, signal: AbortSignal): Promise<Answer> {
    const headers: Record<string, string | readonly string[]> = { "user-agent": "nydus-ts" };
    for (const [name, value] of Object.entries(exchange.headers ?? {})) {
      if (!/^(authorization|cookie|proxy-authorization)$/i.test(name)) headers[name] = value;
    }
    return this.transport.request({
      method: exchange.method,
      url,
      headers,
      tls: { ...endpoint.tls, clientCertificates: [] },
      priority: exchange.priority,
      ...(exchange.demanded === undefined ? {} : { demanded: exchange.demanded }),
      signal,
      attempt,
      ...(exchange.direct === undefined ? {} : { direct: exchange.direct }),
      ...(exchange.proxyHeaders === undefined ? {} : { proxyHeaders: exchange.proxyHeaders }),
    });
  }

  #endpoint(config: HostConfig): Endpoint {
    const key = JSON.stringify(config);
    let endpoint = this.#endpoints.get(key);
    if (endpoint === undefined) {
      endpoint = new Endpoint({
        config,
        registryHost: this.#options.registryHost,
        transport: this.transport,
        tokens: this.tokens,
        credentials: () => this.#credentials,
        trustedRealms: (deadline) => this.#originRealms(deadline),
        ...(this.#options.signing === undefined ? {} : { signing: this.#options.signing }),
      });
      this.#endpoints.set(key, endpoint);
    }
    return endpoint;
  }

  /** Asks the registry itself whom it trusts with passwords. An unreachable registry vouches for nobody. */
  async #originRealms(deadline: Deadline): Promise<ReadonlySet<string>> {
    const config = this.hosts.configs.find(({ kind }) => kind === "origin");
    if (config === undefined) return new Set();
    const endpoint = this.#endpoint(config);
    if (endpoint.realms.size === 0) {
      try {
        const answer = await endpoint.send({ method: "GET", path: "/", scopes: [], priority: "demand" }, deadline, deadline.signal, 1);
        await answer.discard();
      } catch {
        // What the realm was is known even if it gave no token.
      }
    }
    return endpoint.realms;
  }

  async #probe(config: HostConfig, signal: AbortSignal): Promise<boolean> {
    const endpoint = this.#endpoint(config);
    const answer = await this.transport.request({
      method: "GET",
      url: config.pingUrl === undefined ? endpoint.urlOf("/") : new URL(config.pingUrl),
      headers: { "user-agent": "nydus-ts" },
      tls: endpoint.tls,
      priority: "demand",
      signal,
      attempt: 1,
      direct: true,
    });
    await answer.discard();
    return answer.status < 500;
  }
}

function isRedirect(answer: Answer): boolean {
  return [301, 302, 303, 307, 308].includes(answer.status) && answer.header("location") !== undefined;
}

const HARMLESS: readonly string[] = [
  "REGISTRY_NOT_FOUND",
  "REGISTRY_UNAUTHORIZED",
  "REGISTRY_FORBIDDEN",
  "REGISTRY_REFUSED",
  "REGISTRY_ABORTED",
  "REGISTRY_CLOSED",
  "REGISTRY_BUSY",
  "REGISTRY_TOO_LARGE",
];

/** A mirror that lacks something or asks for a login is not ill; one that cannot be reached, is silent or answers nonsense is. */
function judge(host: Host, error: unknown, deadline: Deadline): void {
  if (deadline.expired) host.fail("no answer within the deadline");
  else if (error instanceof RegistryError && !HARMLESS.includes(error.code)) host.fail(error.message);
  else host.release();
}

function requestOf(error: unknown): { request?: NonNullable<RegistryError["request"]> } {
  return error instanceof RegistryError && error.request !== undefined ? { request: error.request } : {};
}
