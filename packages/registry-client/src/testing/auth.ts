import { randomBytes } from "node:crypto";
import type { IncomingMessage, ServerResponse } from "node:http";

/** How the test registry wants to be asked. */
export type TestAuth =
  | { readonly kind: "none" }
  | { readonly kind: "basic"; readonly username: string; readonly password: string }
  | {
      readonly kind: "bearer";
      /** Absent: anonymous tokens are given to everybody. */
      readonly username?: string;
      readonly password?: string;
      /** An OAuth2 refresh token that is accepted too. */
      readonly identityToken?: string;
      /** What the answer says, in seconds; absent: it says nothing. */
      readonly expiresInS?: number;
      /** How long tokens really work, in milliseconds; absent: until `expireTokens`. */
      readonly lifeMs?: number;
      /** The token server knows only GET. */
      readonly getOnly?: boolean;
      /** A realm on another server; default: `/token` here. */
      readonly realm?: string;
    };

/** Tokens of the test registry. `log` counts what was asked, by method. */
export class TestTokens {
  readonly auth: TestAuth;
  readonly log: { method: string; scopes: string[]; account: string }[] = [];
  /** Answers this status to the next token requests. */
  failWith: { status: number; times: number } | undefined;
  /** Milliseconds before a token request is answered. */
  delayMs = 0;
  readonly #tokens = new Map<string, { scopes: string[]; bornMs: number }>();

  constructor(auth: TestAuth) {
    this.auth = auth;
  }

  /** All tokens given so far stop working. */
  expireTokens(): void {
    this.#tokens.clear();
  }

  /** @returns a challenge if the request is not authorised for `scope` */
  challenge(request: IncomingMessage, scope: string, host: string): string | undefined {
    const header = request.headers.authorization ?? "";
    const { auth } = this;
    if (auth.kind === "none") return undefined;
    if (auth.kind === "basic") {
      return header === `Basic ${Buffer.from(`${auth.username}:${auth.password}`).toString("base64")}`
        ? undefined
        : 'Basic realm="test, with = and comma"';
    }
    const token = this.#tokens.get(header.replace(/^Bearer /, ""));
    const alive = token !== undefined && (auth.lifeMs === undefined || performance.now() - token.bornMs < auth.lifeMs);
    if (alive && scope.split(" ").every((one) => one === "" || covers(token.scopes, one))) return undefined;
    return `Bearer realm="${auth.realm ?? `http://${host}/token`}",service="test-registry"${scope === "" ? "" : `,scope="${scope}"`}`;
  }

  async serve(request: IncomingMessage, response: ServerResponse, url: URL, body: string): Promise<void> {
    const { auth } = this;
    if (auth.kind !== "bearer") return void response.writeHead(404).end();
    const form = request.method === "POST" ? new URLSearchParams(body) : url.searchParams;
    const scopes = form.getAll("scope").flatMap((scope) => scope.split(" ").filter((one) => one !== ""));
    this.log.push({ method: request.method ?? "", scopes, account: this.#account(request, form) });
    if (this.delayMs > 0) await new Promise((resolve) => setTimeout(resolve, this.delayMs));
    if (this.failWith !== undefined && this.failWith.times-- > 0) return void response.writeHead(this.failWith.status).end();
    if (auth.getOnly === true && request.method === "POST") return void response.writeHead(405).end();
    if (auth.username !== undefined && !this.#knows(request, form)) {
      response.writeHead(401, { "content-type": "application/json" });
      return void response.end('{"errors":[{"code":"UNAUTHORIZED","message":"wrong user or password"}]}');
    }
    const token = randomBytes(24).toString("hex");
    this.#tokens.set(token, { scopes, bornMs: performance.now() });
    response.writeHead(200, { "content-type": "application/json" });
    response.end(JSON.stringify({ token, ...(auth.expiresInS === undefined ? {} : { expires_in: auth.expiresInS }) }));
  }

  #account(request: IncomingMessage, form: URLSearchParams): string {
    const basic = /^Basic (.*)$/.exec(request.headers.authorization ?? "")?.[1];
    return form.get("username") ?? (basic === undefined ? "" : (Buffer.from(basic, "base64").toString().split(":")[0] as string));
  }

  #knows(request: IncomingMessage, form: URLSearchParams): boolean {
    const { auth } = this;
    if (auth.kind !== "bearer") return false;
    if (form.get("grant_type") === "refresh_token") return form.get("refresh_token") === auth.identityToken;
    if (form.get("grant_type") === "password") return form.get("username") === auth.username && form.get("password") === auth.password;
    return request.headers.authorization === `Basic ${Buffer.from(`${auth.username}:${auth.password}`).toString("base64")}`;
  }
}

function covers(granted: readonly string[], wanted: string): boolean {
  const last = wanted.lastIndexOf(":");
  const [resource, actions] = [wanted.slice(0, last), wanted.slice(last + 1).split(",")];
  return actions.every((action) =>
    granted.some(
      (scope) =>
        scope.startsWith(`${resource}:`) &&
        scope
          .slice(resource.length + 1)
          .split(",")
          .includes(action),
    ),
  );
}
