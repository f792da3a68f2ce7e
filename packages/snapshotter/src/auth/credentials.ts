import type { RegistryPlace } from "../instances/template.ts";
import { LABELS, type Labels } from "../layers/labels.ts";

export type Auth = NonNullable<RegistryPlace["auth"]>;

/** One place where credentials of a registry may be found. */
export interface CredentialSource {
  /** Names the place in logs; never a secret. */
  readonly name: string;
  /** @param host  the registry's own name, `docker.io` for Docker Hub */
  lookup(host: string, signal: AbortSignal): Promise<{ username: string; password: string } | undefined>;
}

/** User and password that a client put on the snapshot. Both must be there. */
export function labelCredentials(labels: Labels): CredentialSource {
  const username = labels[LABELS.pullUser];
  const password = labels[LABELS.pullSecret];
  return { name: "labels", lookup: async () => (username && password ? { username, password } : undefined) };
}

/**
 * The first source that has something wins; a source that fails is skipped with its reason told to `warn`.
 * A password without a user is a bearer token. Source: spec/snapshotter.md 12.
 */
export async function findAuth(
  host: string,
  sources: readonly CredentialSource[],
  options: { signal: AbortSignal; warn: (source: string, error: unknown) => void },
): Promise<Auth | undefined> {
  for (const source of sources) {
    try {
      const found = await source.lookup(host, options.signal);
      if (found === undefined || found.password === "") continue;
      if (found.username === "") return { kind: "bearer", token: found.password };
      return { kind: "basic", base64: Buffer.from(`${found.username}:${found.password}`).toString("base64") };
    } catch (error) {
      options.warn(source.name, error);
    }
  }
  return undefined;
}
