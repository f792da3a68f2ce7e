import type { Dispatcher } from "undici";

/** `proxy` of nydusd's back end configuration. */
export interface ProxyOptions {
  /** `http://`, `https://` or `socks5://` forward proxy, or a P2P agent that works as one. */
  readonly url: string;
  /** Asked every `checkIntervalMs` while there is traffic; 200-399 is healthy. Absent: always healthy. */
  readonly pingUrl?: string;
  /** Go direct when the proxy fails. */
  readonly fallback: boolean;
  readonly checkIntervalMs: number;
  /** Without a request for this long the checks rest. */
  readonly checkPauseElapsedMs: number;
  /** Which URLs go through it; default all. */
  readonly applies?: (url: URL) => boolean;
  /** Also what is asked past it otherwise: tokens, last attempts. For networks that have no other way out. */
  readonly always?: boolean;
  /** Ask the proxy for `http` where the registry is `https`: an agent can then see and share the content. */
  readonly useHttp: boolean;
}

/** Health of the proxy. Checks start with a request and rest when nobody asks; starts healthy. */
export class ProxyHealth {
  readonly #options: ProxyOptions;
  readonly #dispatcher: Dispatcher;
  readonly #timeoutMs: number;
  readonly #closed = new AbortController();
  #healthy = true;
  #checkedMs = Number.NEGATIVE_INFINITY;
  #running: Promise<void> | undefined;

  constructor(options: ProxyOptions, dispatcher: Dispatcher, timeoutMs: number) {
    this.#options = options;
    this.#dispatcher = dispatcher;
    this.#timeoutMs = timeoutMs;
  }

  get healthy(): boolean {
    if (this.#options.pingUrl === undefined || this.#options.pingUrl === "") return true;
    if (this.#running === undefined && performance.now() - this.#checkedMs >= this.#options.checkIntervalMs) this.#running = this.#check();
    return this.#healthy;
  }

  async #check(): Promise<void> {
    try {
      const url = new URL(this.#options.pingUrl as string);
      const answer = await this.#dispatcher.request({
        origin: url.origin,
        path: url.pathname + url.search,
        method: "GET",
        signal: AbortSignal.any([AbortSignal.timeout(this.#timeoutMs), this.#closed.signal]),
      });
      await answer.body.dump();
      this.#healthy = answer.statusCode >= 200 && answer.statusCode < 400;
    } catch {
      this.#healthy = false;
    } finally {
      this.#checkedMs = performance.now();
      this.#running = undefined;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed.abort();
    await this.#running;
  }
}
