import { type HostConfig, hostUrl } from "@nydus-ts/mirror-config";
import { type Challenge, parseChallenges } from "./auth/challenge.ts";
import { basicHeader, type TokenAsk, type TokenService } from "./auth/token-service.ts";
import type { Credential, Credentials } from "./credentials/credentials.ts";
import { RegistryError } from "./errors.ts";
import type { Deadline } from "./http/deadline.ts";
import type { Priority } from "./http/gate.ts";
import type { TlsOptions } from "./http/tls.ts";
import type { Answer, Transport, WireRequest } from "./http/transport.ts";
import { ERROR_BODY_BYTES_MAX, MIRROR_CONNECT_TIMEOUT_MS } from "./limits.ts";
import type { RequestSigner } from "./request-signer.ts";

/** A request before it is known which host gets it. */
export interface EndpointRequest {
  readonly method: WireRequest["method"];
  /** Below the host's base path, starting with a slash; or a whole URL on this host (an upload's location). */
  readonly path: string | URL;
  readonly headers?: Readonly<Record<string, string | readonly string[]>>;
  /** Called for each sending; answers undefined if the bytes cannot be had again. */
  readonly body?: () => Uint8Array | string | AsyncIterable<Uint8Array> | undefined;
  /** `repository:NAME:pull`: used when the challenge names none, and for what it forgot. */
  readonly scopes: readonly string[];
  readonly priority: Priority;
  /** Fires when somebody begins to wait for what `prefetch` was asked for. */
  readonly demanded?: AbortSignal;
  readonly direct?: boolean;
  readonly proxyHeaders?: Readonly<Record<string, string>>;
  readonly idleTimeoutMs?: number;
}

export interface EndpointOptions {
  readonly config: HostConfig;
  /** The registry's name, for which credentials are kept. */
  readonly registryHost: string;
  readonly transport: Transport;
  readonly tokens: TokenService;
  readonly credentials: () => Credentials;
  /** Token realms the registry itself names; a mirror's realm must be among them to be given the registry's password. */
  readonly trustedRealms: (deadline: Deadline) => Promise<ReadonlySet<string>>;
  /** Signs every request, in place of what a registry asks for. */
  readonly signing?: HostSigning;
}

/** Requests are signed as the origin gets them; a mirror passes them on, so it is told the origin's name. */
export interface HostSigning {
  readonly signer: RequestSigner | undefined;
  readonly origin: Pick<HostConfig, "scheme" | "host">;
}

/** One host of a registry: its URL, headers, TLS and how it wants to be authorised. */
export class Endpoint {
  readonly config: HostConfig;
  readonly #options: EndpointOptions;
  readonly #challenges = new Map<string, Challenge>();
  /** Origins of token realms this host named. */
  readonly realms = new Set<string>();
  #scheme: "http" | "https";

  constructor(options: EndpointOptions) {
    this.#options = options;
    this.config = options.config;
    this.#scheme = options.config.scheme;
  }

  get tls(): TlsOptions {
    return { caFiles: this.config.caFiles, clientCertificates: this.config.clientCertificates, skipVerify: this.config.skipVerify };
  }

  urlOf(path: string | URL): URL {
    const url = path instanceof URL ? new URL(path) : new URL(`${this.#scheme}://${this.config.host}${this.config.basePath}${path}`);
    if (!(path instanceof URL) && this.config.namespace !== undefined) url.searchParams.set("ns", this.config.namespace);
    return url;
  }

  /** Sends with what is known of authorisation, and answers one challenge. A second 401 is returned as it is. */
  async send(request: EndpointRequest, deadline: Deadline, signal: AbortSignal, attempt: number): Promise<Answer> {
    const { signing } = this.#options;
    if (signing !== undefined) return this.#exchange(request, await this.#signed(request, signing), signal, attempt);
    const known = await this.#knownHeader(request.scopes, deadline);
    let answer = await this.#exchange(request, authorized(known), signal, attempt);
    if (answer.status !== 401) return answer;
    answer = await settled(answer);
    let challenges = parseChallenges(answer.headerValues("www-authenticate"));
    if (challenges.length === 0 && known !== undefined) {
      // Some servers explain themselves only to those who come without a header.
      await answer.discard();
      answer = await this.#exchange(request, {}, signal, attempt);
      if (answer.status !== 401) return answer;
      answer = await settled(answer);
      challenges = parseChallenges(answer.headerValues("www-authenticate"));
    }
    const header = await this.#answerChallenges(challenges, request.scopes, known, answer, deadline);
    if (header === undefined) return answer;
    await answer.discard();
    return this.#exchange(request, authorized(header), signal, attempt);
  }

  async #signed(request: EndpointRequest, { signer, origin }: HostSigning): Promise<Readonly<Record<string, string>>> {
    const url = this.urlOf(request.path);
    const atOrigin = new URL(url.pathname + url.search, `${origin.scheme}://${origin.host}`);
    const host = atOrigin.host === url.host ? {} : { host: atOrigin.host };
    if (signer === undefined) return host;
    return { ...host, ...(await signer.sign({ method: request.method, url: atOrigin, headers: request.headers ?? {} })) };
  }

  async #exchange(
    request: EndpointRequest,
    authorization: Readonly<Record<string, string>>,
    signal: AbortSignal,
    attempt: number,
  ): Promise<Answer> {
    const wire = (): WireRequest => {
      const body = request.body?.();
      if (request.body !== undefined && body === undefined) {
        throw new RegistryError("REGISTRY_UNAUTHORIZED", "the registry asked for other credentials in the middle of an upload", {
          retryable: true,
        });
      }
      return {
        method: request.method,
        url: this.urlOf(request.path),
        headers: {
          "user-agent": "nydus-ts",
          ...authorization,
          ...request.headers,
          ...this.config.headers,
        },
        ...(body === undefined ? {} : { body }),
        tls: this.tls,
        priority: request.priority,
        ...(request.demanded === undefined ? {} : { demanded: request.demanded }),
        signal,
        attempt,
        ...connectTimeout(this.config),
        ...(request.idleTimeoutMs === undefined ? {} : { idleTimeoutMs: request.idleTimeoutMs }),
        ...(request.direct === undefined ? {} : { direct: request.direct }),
        ...(request.proxyHeaders === undefined ? {} : { proxyHeaders: request.proxyHeaders }),
      };
    };
    try {
      return await this.#options.transport.request(wire());
    } catch (error) {
      if (!this.#mayBePlain(error, request)) throw error;
      const before = this.#scheme;
      this.#scheme = "http";
      try {
        return await this.#options.transport.request(wire());
      } catch {
        this.#scheme = before;
        throw error;
      }
    }
  }

  /** With `skip_verify` a host that does not speak TLS is asked in plain HTTP, from then on for good. */
  #mayBePlain(error: unknown, request: EndpointRequest): boolean {
    if (!this.config.skipVerify || this.#scheme !== "https" || request.path instanceof URL || !(error instanceof RegistryError))
      return false;
    return (
      error.code === "REGISTRY_TLS" ||
      (error.code === "REGISTRY_UNREACHABLE" && /ECONNREFUSED|ECONNRESET|UND_ERR_SOCKET/.test(error.message))
    );
  }

  async #knownHeader(scopes: readonly string[], deadline: Deadline): Promise<string | undefined> {
    const challenge = this.#challenges.get(scopes.join(" "));
    const { credential } = await this.#credential(challenge, deadline);
    if (credential?.kind === "bearer") return `Bearer ${credential.token}`;
    if (challenge === undefined) return undefined;
    if (challenge.scheme === "basic") return credential?.kind === "basic" ? basicHeader(credential) : undefined;
    return `Bearer ${await this.#options.tokens.token(await this.#ask(challenge, scopes, deadline), undefined, deadline)}`;
  }

  async #answerChallenges(
    challenges: Challenge[],
    scopes: readonly string[],
    sent: string | undefined,
    answer: Answer,
    deadline: Deadline,
  ): Promise<string | undefined> {
    const bearer = challenges.find(({ scheme, params }) => scheme === "bearer" && params.has("realm"));
    const challenge = bearer ?? challenges.find(({ scheme }) => scheme === "basic");
    if (challenge === undefined) return undefined;
    if (challenge.scheme === "basic") {
      const { credential } = await this.#credential(challenge, deadline);
      const header = credential?.kind === "basic" ? basicHeader(credential) : undefined;
      if (header === undefined || header === sent) return undefined;
      this.#challenges.set(scopes.join(" "), challenge);
      return header;
    }
    const refused = sent?.startsWith("Bearer ") ? sent.slice("Bearer ".length) : undefined;
    try {
      const ask = await this.#ask(challenge, scopes, deadline);
      if (this.config.kind === "origin") this.realms.add(ask.realm.origin);
      const token = await this.#options.tokens.token(ask, refused, deadline);
      this.#challenges.set(scopes.join(" "), challenge);
      return `Bearer ${token}`;
    } catch (error) {
      await answer.discard();
      throw error;
    }
  }

  async #ask(challenge: Challenge, scopes: readonly string[], deadline: Deadline): Promise<TokenAsk> {
    const realm = this.#realm(challenge);
    const { credential, source } = await this.#credential(challenge, deadline);
    const named = (challenge.params.get("scope") ?? "").split(" ").filter((scope) => scope !== "");
    const wanted = scopesOf(named, scopes);
    const secret = credential !== undefined && credential.kind !== "bearer";
    if (secret && realm.protocol === "http:" && this.#scheme === "https" && !this.config.skipVerify) {
      throw new RegistryError("REGISTRY_UNAUTHORIZED", `${hostUrl(this.config)} wants the password sent to ${realm.origin} without TLS`, {
        hint: "correct the registry's token realm, or set skip_verify if this is meant",
      });
    }
    return {
      realm,
      service: challenge.params.get("service"),
      scopes: wanted,
      credential: credential?.kind === "bearer" ? undefined : credential,
      credentialSource: source,
      tls: this.tls,
      headers: this.config.kind === "mirror" && this.config.authThrough ? this.config.headers : {},
    };
  }

  #realm(challenge: Challenge): URL {
    const text = challenge.params.get("realm") ?? "";
    let realm: URL;
    try {
      realm = new URL(text);
    } catch {
      throw new RegistryError("REGISTRY_PROTOCOL", `${hostUrl(this.config)} names a token realm that is not a URL`);
    }
    if (realm.protocol !== "http:" && realm.protocol !== "https:")
      throw new RegistryError("REGISTRY_PROTOCOL", `${hostUrl(this.config)} names a token realm that is not HTTP`);
    if (this.config.kind === "mirror" && this.config.authThrough) {
      realm.protocol = `${this.#scheme}:`;
      realm.host = this.config.host;
      if (!/:\d+$/.test(this.config.host)) realm.port = "";
    }
    return realm;
  }

  /** The registry's credential for the registry; for a mirror its own, or the registry's where it may have it. */
  async #credential(challenge: Challenge | undefined, deadline: Deadline): Promise<{ credential: Credential | undefined; source: string }> {
    const credentials = this.#options.credentials();
    const options = { signal: deadline.signal };
    const { kind, host, sharesCredentials } = this.config;
    if (kind === "origin") return { credential: await credentials.lookup(this.#options.registryHost, options), source: credentials.source };
    const source = `${credentials.source} (for the mirror ${host})`;
    if (!sharesCredentials) {
      const trusted =
        challenge?.scheme === "bearer" &&
        (this.config.authThrough || (await this.#options.trustedRealms(deadline)).has(this.#realm(challenge).origin));
      if (!trusted)
        return {
          credential:
            host === this.#options.registryHost ? undefined : await ownCredential(credentials, host, this.#options.registryHost, options),
          source,
        };
    }
    return { credential: await credentials.lookup(this.#options.registryHost, options), source };
  }
}

/**
 * The answer with its body taken off the wire. Whoever waits for a token must hold no place at the host: the token request may need one
 * at the same host, and 32 refused reads at once would wait for it until their deadlines.
 */
async function settled(answer: Answer): Promise<Answer> {
  const text = await answer.text(ERROR_BODY_BYTES_MAX).catch(() => "");
  await answer.discard();
  return {
    ...answer,
    body: (async function* () {
      yield Buffer.from(text);
    })(),
    each: async (onPiece) => void onPiece(Buffer.from(text)),
    text: async (bytesMax) => text.slice(0, bytesMax),
    discard: async () => undefined,
  };
}

const authorized = (authorization: string | undefined): Readonly<Record<string, string>> =>
  authorization === undefined ? {} : { authorization };

function connectTimeout(config: HostConfig): { connectTimeoutMs?: number } {
  const ms = config.connectTimeoutMs ?? (config.kind === "mirror" ? MIRROR_CONNECT_TIMEOUT_MS : undefined);
  return ms === undefined ? {} : { connectTimeoutMs: ms };
}

/**
 * What to ask a token for: what the challenge names, or what the call needs if that covers it (a HEAD before an upload is challenged for
 * `pull` only), and for a mount also the repository it takes from.
 */
function scopesOf(named: readonly string[], wanted: readonly string[]): readonly string[] {
  const covers = (scope: string): boolean => {
    const cut = scope.lastIndexOf(":");
    const [resource, actions] = [scope.slice(0, cut + 1), scope.slice(cut + 1).split(",")];
    return wanted.some(
      (one) =>
        one.startsWith(resource) &&
        actions.every((action) =>
          one
            .slice(cut + 1)
            .split(",")
            .includes(action),
        ),
    );
  };
  if (named.every(covers)) return wanted;
  return wanted.length > 1 ? [...new Set([...named, ...wanted])] : named;
}

/** What a source keeps for the mirror itself; a source that answers every host alike says nothing about the mirror. */
async function ownCredential(
  credentials: Credentials,
  host: string,
  registryHost: string,
  options: { signal: AbortSignal },
): Promise<Credential | undefined> {
  const own = await credentials.lookup(host, options);
  if (own === undefined) return undefined;
  const registry = await credentials.lookup(registryHost, options);
  return JSON.stringify(own) === JSON.stringify(registry) ? undefined : own;
}
