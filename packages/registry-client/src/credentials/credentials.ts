import { createHash } from "node:crypto";
import { RegistryError } from "../errors.ts";

/** What a person has for a registry. */
export type Credential =
  | { readonly kind: "basic"; readonly username: string; readonly password: string }
  /** An OAuth2 refresh token, as `docker login` keeps it. */
  | { readonly kind: "identity"; readonly identityToken: string }
  /** A bearer token that is ready for use. */
  | { readonly kind: "bearer"; readonly token: string };

/** Where credentials come from. Asked again at every renewal, so a changed file or secret is seen without a restart. */
export interface Credentials {
  /** Names the source in hints: `~/.docker/config.json`. Never a secret. */
  readonly source: string;
  /** @param host  the registry's name, `docker.io` for Docker Hub */
  lookup(host: string, options: { signal: AbortSignal }): Promise<Credential | undefined>;
}

export const anonymous: Credentials = { source: "no credentials", lookup: async () => undefined };

/** The same credential for every host it is asked about, or for one host only. */
export function staticCredentials(credential: Credential | undefined, options: { source?: string; host?: string } = {}): Credentials {
  return {
    source: options.source ?? "given credentials",
    lookup: async (host) => (options.host === undefined || options.host === host ? credential : undefined),
  };
}

/**
 * The `auth` of nydusd's configuration and of docker's config.json: base64 of `user:password`. The password may hold colons.
 * An empty user with a password is a bearer token (containerd's and the snapshotter's habit). Blank text is no credential.
 *
 * @throws RegistryError REGISTRY_CREDENTIALS; the text itself is never repeated
 */
export function credentialOfAuth(auth: string): Credential | undefined {
  if (auth.trim() === "") return undefined;
  const text = Buffer.from(auth.trim(), "base64").toString("utf8").replace(/\0+$/, "");
  const colon = text.indexOf(":");
  if (colon < 0)
    throw new RegistryError("REGISTRY_CREDENTIALS", "auth is not base64 of USER:PASSWORD", {
      hint: "make it with: printf %s 'USER:PASSWORD' | base64 -w0",
    });
  const [username, password] = [text.slice(0, colon), text.slice(colon + 1)];
  if (username === "" && password === "") return undefined;
  return username === "" ? { kind: "bearer", token: password } : { kind: "basic", username, password };
}

/** The first source that has something wins. */
export function firstOf(...sources: readonly Credentials[]): Credentials {
  return {
    source: sources.map(({ source }) => source).join(", then ") || "no credentials",
    async lookup(host, options) {
      for (const source of sources) {
        const found = await source.lookup(host, options);
        if (found !== undefined) return found;
      }
      return undefined;
    },
  };
}

/** Tells accounts apart in a token cache without keeping the secret as a key. */
export function accountOf(credential: Credential | undefined): string {
  return credential === undefined ? "anonymous" : createHash("sha256").update(JSON.stringify(credential)).digest("base64");
}
