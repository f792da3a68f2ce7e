import { z } from "zod";
import type { Credential } from "../credentials/credentials.ts";
import { accountOf } from "../credentials/credentials.ts";
import { RegistryError, serverWords, withoutSecrets } from "../errors.ts";
import { Deadline } from "../http/deadline.ts";
import type { TlsOptions } from "../http/tls.ts";
import type { Answer, Transport } from "../http/transport.ts";
import {
  ANSWER_BYTES_MAX,
  ERROR_BODY_BYTES_MAX,
  REDIRECTS_MAX,
  TOKEN_LIFE_DEFAULT_MS,
  TOKEN_RENEW_JITTER_SHARE,
  TOKEN_RENEW_SHARE,
  TOKEN_RETRY_MAX_MS,
  TOKEN_RETRY_MIN_MS,
  TOKENS_CACHED_MAX,
} from "../limits.ts";

/** A token request: who asks whom for what. */
export interface TokenAsk {
  readonly realm: URL;
  readonly service: string | undefined;
  readonly scopes: readonly string[];
  readonly credential: Credential | undefined;
  readonly credentialSource: string;
  readonly tls: TlsOptions;
  readonly headers: Readonly<Record<string, readonly string[]>>;
}

interface Entry {
  token?: string;
  renewAtMs: number;
  expiresAtMs: number;
  pending?: Promise<string>;
  failure?: { readonly error: RegistryError; readonly untilMs: number; readonly waitMs: number };
}

export interface TokenServiceOptions {
  readonly transport: Transport;
  /** For one token request, both ways of asking included. */
  readonly deadlineMs: number;
  readonly now?: () => number;
  readonly random?: () => number;
}

/**
 * Bearer tokens, one per (realm, service, scopes, account). However many requests wait there is one token request in flight for each;
 * a token in use is renewed beside the traffic at about 80 % of its life. There is no timer: what nobody uses is not renewed.
 */
export class TokenService {
  readonly #options: TokenServiceOptions;
  readonly #now: () => number;
  readonly #random: () => number;
  readonly #entries = new Map<string, Entry>();
  readonly #getOnly = new Set<string>();
  #requests = 0;

  constructor(options: TokenServiceOptions) {
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
    this.#random = options.random ?? Math.random;
  }

  /** Token exchanges so far, failed ones included. */
  get requests(): number {
    return this.#requests;
  }

  /** Forgets everything, also that a server refused: the account's secret may have changed. */
  clear(): void {
    this.#entries.clear();
  }

  /**
   * @param refused  the token a registry has just answered 401 to; it is not returned again
   * @param deadline  how long this caller waits; the request itself goes on for the others
   * @throws RegistryError REGISTRY_UNAUTHORIZED, REGISTRY_UNREACHABLE, REGISTRY_PROTOCOL, REGISTRY_DEADLINE …
   */
  async token(ask: TokenAsk, refused: string | undefined, deadline: Deadline): Promise<string> {
    const key = JSON.stringify([ask.realm.href, ask.service ?? "", [...ask.scopes].sort(), accountOf(ask.credential)]);
    const entry = this.#entry(key);
    const now = this.#now();
    if (entry.token !== undefined && (entry.token === refused || now >= entry.expiresAtMs)) delete entry.token;
    if (entry.failure !== undefined && now < entry.failure.untilMs && entry.pending === undefined) {
      if (entry.token !== undefined) return entry.token;
      throw entry.failure.error;
    }
    if (entry.token !== undefined) {
      if (now >= entry.renewAtMs && entry.pending === undefined) this.#start(entry, ask).catch(() => undefined);
      return entry.token;
    }
    return race(entry.pending ?? this.#start(entry, ask), deadline);
  }

  #entry(key: string): Entry {
    let entry = this.#entries.get(key);
    if (entry === undefined) {
      entry = { renewAtMs: 0, expiresAtMs: 0 };
      const oldest = this.#entries.keys().next();
      if (this.#entries.size >= TOKENS_CACHED_MAX && !oldest.done) this.#entries.delete(oldest.value);
      this.#entries.set(key, entry);
    }
    return entry;
  }

  #start(entry: Entry, ask: TokenAsk): Promise<string> {
    const pending = this.#ask(ask)
      .then(({ token, lifeMs }) => {
        const now = this.#now();
        entry.token = token;
        entry.expiresAtMs = now + lifeMs;
        entry.renewAtMs = now + lifeMs * (TOKEN_RENEW_SHARE - TOKEN_RENEW_JITTER_SHARE * this.#random());
        delete entry.failure;
        return token;
      })
      .catch((error: RegistryError) => {
        const waitMs = Math.min(TOKEN_RETRY_MAX_MS, (entry.failure?.waitMs ?? TOKEN_RETRY_MIN_MS / 2) * 2);
        entry.failure = { error, waitMs, untilMs: this.#now() + Math.max(waitMs, error.retryAfterMs ?? 0) };
        throw error;
      })
      .finally(() => {
        delete entry.pending;
      });
    entry.pending = pending;
    pending.catch(() => undefined);
    return pending;
  }

  /** POST first where there is something to post; servers that know only GET are remembered. */
  async #ask(ask: TokenAsk): Promise<{ token: string; lifeMs: number }> {
    using deadline = new Deadline(this.#options.deadlineMs);
    try {
      const form = postForm(ask);
      if (form !== undefined && !this.#getOnly.has(ask.realm.href)) {
        const answer = await this.#send(ask, "POST", ask.realm, deadline, form);
        if (answer.status < 400) return await readToken(answer);
        if (ask.credential?.kind === "identity" || answer.status >= 500 || answer.status === 429) throw await tokenError(answer, ask);
        await answer.discard();
      }
      const url = new URL(ask.realm);
      if (ask.service !== undefined) url.searchParams.set("service", ask.service);
      for (const scope of ask.scopes) url.searchParams.append("scope", scope);
      const answer = await this.#send(ask, "GET", url, deadline);
      if (answer.status >= 400) throw await tokenError(answer, ask);
      const token = await readToken(answer);
      if (form !== undefined) this.#getOnly.add(ask.realm.href);
      return token;
    } catch (error) {
      if (deadline.ended) throw deadline.error(`the token request to ${withoutSecrets(ask.realm)}`, { cause: error });
      throw error;
    }
  }

  async #send(ask: TokenAsk, method: "GET" | "POST", start: URL, deadline: Deadline, form?: string): Promise<Answer> {
    let url = start;
    const credential = ask.credential;
    for (let hop = 0; ; hop++) {
      this.#requests++;
      const sameHost = url.origin === start.origin;
      if (form !== undefined && !sameHost) {
        throw new RegistryError(
          "REGISTRY_UNAUTHORIZED",
          `the token server ${withoutSecrets(start)} redirects to another host; no credentials are sent there`,
        );
      }
      const basic = method === "GET" && credential?.kind === "basic" && sameHost;
      const answer = await this.#options.transport.request({
        method,
        url,
        headers: {
          ...ask.headers,
          accept: "application/json",
          "user-agent": "nydus-ts",
          ...(basic ? { authorization: basicHeader(credential) } : {}),
          ...(form === undefined ? {} : { "content-type": "application/x-www-form-urlencoded" }),
        },
        ...(form === undefined ? {} : { body: form }),
        tls: ask.tls,
        priority: "demand",
        signal: deadline.signal,
        attempt: hop + 1,
        direct: true,
      });
      const location = answer.header("location");
      if (answer.status < 300 || answer.status >= 400 || location === undefined || hop >= REDIRECTS_MAX) return answer;
      await answer.discard();
      url = new URL(location, url);
    }
  }
}

export function basicHeader(credential: { username: string; password: string }): string {
  return `Basic ${Buffer.from(`${credential.username}:${credential.password}`).toString("base64")}`;
}

/** docker's OAuth2 form; undefined where there is no secret to post. */
function postForm(ask: TokenAsk): string | undefined {
  const { credential } = ask;
  if (credential === undefined || credential.kind === "bearer") return undefined;
  const form = new URLSearchParams({ client_id: "nydus-ts", scope: ask.scopes.join(" ") });
  if (ask.service !== undefined) form.set("service", ask.service);
  if (credential.kind === "identity") {
    form.set("grant_type", "refresh_token");
    form.set("refresh_token", credential.identityToken);
  } else {
    form.set("grant_type", "password");
    form.set("username", credential.username);
    form.set("password", credential.password);
  }
  return form.toString();
}

const tokenAnswer = z.looseObject({
  token: z.string().optional(),
  access_token: z.string().optional(),
  expires_in: z.number().nonnegative().optional(),
});

async function readToken(answer: Answer): Promise<{ token: string; lifeMs: number }> {
  if (answer.status >= 300) {
    await answer.discard();
    throw new RegistryError("REGISTRY_PROTOCOL", `the token server answered ${answer.status} without a token`, { request: answer.request });
  }
  const text = await answer.text(ANSWER_BYTES_MAX);
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    throw new RegistryError("REGISTRY_PROTOCOL", "the token server's answer is not JSON", { request: answer.request });
  }
  const parsed = tokenAnswer.safeParse(json);
  const token = parsed.success ? parsed.data.token || parsed.data.access_token : undefined;
  if (!parsed.success || token === undefined || token === "" || !/^[\x21-\x7e]+$/.test(token)) {
    throw new RegistryError("REGISTRY_PROTOCOL", "the token server's answer holds no token", { request: answer.request });
  }
  const seconds = parsed.data.expires_in;
  return { token, lifeMs: seconds === undefined || seconds === 0 ? TOKEN_LIFE_DEFAULT_MS : seconds * 1000 };
}

async function tokenError(answer: Answer, ask: TokenAsk): Promise<RegistryError> {
  const words = serverWords(await answer.text(ERROR_BODY_BYTES_MAX));
  const said = words === "" ? "" : `: ${words}`;
  if (answer.status === 429) {
    return new RegistryError("REGISTRY_RATE_LIMITED", `the token server answered 429${said}`, {
      request: answer.request,
      retryable: true,
      ...retryAfter(answer),
    });
  }
  if (answer.status >= 500) {
    return new RegistryError("REGISTRY_SERVER", `the token server answered ${answer.status}${said}`, {
      request: answer.request,
      retryable: true,
      ...retryAfter(answer),
    });
  }
  const hint =
    ask.credential === undefined
      ? `no credentials were sent; looked in ${ask.credentialSource}`
      : `the credentials from ${ask.credentialSource} were refused; log in again`;
  return new RegistryError(
    answer.status === 403 ? "REGISTRY_FORBIDDEN" : "REGISTRY_UNAUTHORIZED",
    `the token server answered ${answer.status}${said}`,
    { request: answer.request, hint },
  );
}

/** Seconds or an HTTP date, as milliseconds from now; at most a day. */
export function retryAfter(answer: Answer): { retryAfterMs: number } | Record<string, never> {
  const text = answer.header("retry-after")?.trim();
  if (text === undefined) return {};
  const ms = /^\d+$/.test(text) ? Number(text) * 1000 : Date.parse(text) - Date.now();
  return Number.isFinite(ms) ? { retryAfterMs: Math.min(Math.max(0, ms), 86_400_000) } : {};
}

function race<T>(promise: Promise<T>, deadline: Deadline): Promise<T> {
  if (deadline.ended) return Promise.reject(deadline.error("waiting for a token"));
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(deadline.error("waiting for a token"));
    deadline.signal.addEventListener("abort", onAbort, { once: true });
    promise.then(resolve, reject).finally(() => deadline.signal.removeEventListener("abort", onAbort));
  });
}
