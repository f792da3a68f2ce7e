import { type Credential, type Credentials, staticCredentials } from "@nydus-ts/registry-client";
import type { RegistryPlace } from "../instances/template.ts";
import { LABELS, type Labels } from "../layers/labels.ts";

export type Auth = NonNullable<RegistryPlace["auth"]>;

/** User and password that a client put on the snapshot; both must be there. A password without a user is a bearer token, but not here. */
export function labelCredentials(labels: Labels): Credentials {
  const username = labels[LABELS.pullUser];
  const password = labels[LABELS.pullSecret];
  return staticCredentials(username && password ? { kind: "basic", username, password } : undefined, { source: "labels" });
}

/**
 * The first source that has something the daemon can use wins; a source that fails is skipped with its reason told to `warn`.
 * Source: spec/snapshotter.md 12
 */
export async function findAuth(
  host: string,
  sources: readonly Credentials[],
  options: { signal: AbortSignal; warn: (source: string, error: unknown) => void },
): Promise<Auth | undefined> {
  for (const source of sources) {
    try {
      const found = await source.lookup(host, { signal: options.signal });
      if (found !== undefined) return authOf(found);
    } catch (error) {
      options.warn(source.source, error);
    }
  }
  return undefined;
}

function authOf(credential: Credential): Auth {
  switch (credential.kind) {
    case "bearer":
      return { kind: "bearer", token: credential.token };
    case "basic":
      if (credential.username === "") return { kind: "bearer", token: credential.password };
      return { kind: "basic", base64: Buffer.from(`${credential.username}:${credential.password}`).toString("base64") };
    case "identity":
      throw new Error("an identity token (docker login of a cloud account) cannot be given to nydusd; use a user and a password");
  }
}
