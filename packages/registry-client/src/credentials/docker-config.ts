import { readFile, stat } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { z } from "zod";
import { RegistryError } from "../errors.ts";
import { ANSWER_BYTES_MAX } from "../limits.ts";
import { type Credential, type Credentials, credentialOfAuth } from "./credentials.ts";
import { askHelper } from "./helper.ts";

const entry = z.looseObject({
  auth: z.string().optional(),
  username: z.string().optional(),
  password: z.string().optional(),
  identitytoken: z.string().optional(),
  registrytoken: z.string().optional(),
});
const dockerConfig = z.looseObject({
  auths: z.record(z.string(), entry).nullish(),
  credHelpers: z.record(z.string(), z.string()).nullish(),
  credsStore: z.string().nullish(),
});

const HUB_KEY = "https://index.docker.io/v1/";
const HUB_NAMES = ["docker.io", "index.docker.io", "registry-1.docker.io"];

export interface DockerConfigOptions {
  /** Default: `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`. */
  readonly file?: string;
  /** Where helpers are looked for; default: `PATH`. */
  readonly path?: string;
  readonly helperDeadlineMs?: number;
}

/**
 * Credentials of `docker login`: the file is read again when it changed, so a new login is used without a restart. In it, first a helper of
 * that registry (`credHelpers`), then `auths`, then the common store (`credsStore`). A missing file is no credential.
 */
export function dockerConfigCredentials(options: DockerConfigOptions = {}): Credentials {
  const file = options.file ?? join(process.env["DOCKER_CONFIG"] ?? join(homedir(), ".docker"), "config.json");
  let cached: { stamp: string; config: z.infer<typeof dockerConfig> } | undefined;
  const answers = new Map<string, { untilMs: number; credential: Promise<Credential | undefined> }>();
  const read = async (): Promise<z.infer<typeof dockerConfig> | undefined> => {
    const found = await stat(file, { bigint: true }).catch(() => undefined);
    if (found === undefined) return undefined;
    const stamp = `${found.ino} ${found.size} ${found.mtimeNs}`;
    if (cached?.stamp !== stamp) {
      cached = { stamp, config: await parseConfig(file, found.size) };
      answers.clear();
    }
    return cached.config;
  };
  return {
    source: file,
    async lookup(host, { signal }) {
      const config = await read();
      if (config === undefined) return undefined;
      const ask = (helper: string, server: string): Promise<Credential | undefined> => {
        // A helper is a process: one for all who ask within some seconds. It outlives the call that started it.
        const key = `${helper} ${server}`;
        const known = answers.get(key);
        if (known !== undefined && performance.now() < known.untilMs) return known.credential;
        const credential = askHelper(helper, server, {
          signal: new AbortController().signal,
          ...(options.helperDeadlineMs === undefined ? {} : { deadlineMs: options.helperDeadlineMs }),
          ...(options.path === undefined ? {} : { path: options.path }),
        });
        answers.set(key, { untilMs: performance.now() + 30_000, credential });
        credential.catch(() => answers.delete(key));
        return abortable(credential, signal);
      };
      for (const key of keysOf(host)) {
        const helper = config.credHelpers?.[key];
        if (helper !== undefined && helper !== "") return ask(helper, key);
      }
      const found = entryOf(config.auths ?? {}, host);
      if (found !== undefined) return found;
      if (config.credsStore) {
        for (const key of keysOf(host).slice(0, 1)) return ask(config.credsStore, key);
      }
      return undefined;
    },
  };
}

/** Names under which a registry may stand, the usual one first. */
function keysOf(host: string): string[] {
  return HUB_NAMES.includes(host) ? [HUB_KEY, ...HUB_NAMES] : [host, `https://${host}`, `http://${host}`];
}

function entryOf(auths: Readonly<Record<string, z.infer<typeof entry>>>, host: string): Credential | undefined {
  const keys = keysOf(host);
  const exact = keys.find((key) => auths[key] !== undefined);
  const key =
    exact ?? Object.keys(auths).find((name) => hostOf(name) === host || (HUB_NAMES.includes(host) && HUB_NAMES.includes(hostOf(name))));
  const found = key === undefined ? undefined : auths[key];
  if (found === undefined) return undefined;
  if (found.identitytoken) return { kind: "identity", identityToken: found.identitytoken };
  if (found.registrytoken) return { kind: "bearer", token: found.registrytoken };
  if (found.auth) return credentialOfAuth(found.auth);
  return found.username && found.password ? { kind: "basic", username: found.username, password: found.password } : undefined;
}

function hostOf(key: string): string {
  return (key.replace(/^https?:\/\//, "").split("/")[0] ?? "").toLowerCase();
}

async function parseConfig(file: string, size: bigint): Promise<z.infer<typeof dockerConfig>> {
  if (size > BigInt(ANSWER_BYTES_MAX)) throw new RegistryError("REGISTRY_CREDENTIALS", `${file} is larger than ${ANSWER_BYTES_MAX} bytes`);
  let json: unknown;
  try {
    json = JSON.parse(await readFile(file, "utf8"));
  } catch (error) {
    // The parser's message quotes the text, and the text holds secrets.
    const { code } = error as NodeJS.ErrnoException;
    throw new RegistryError("REGISTRY_CREDENTIALS", `${file} ${code === undefined ? "is not JSON" : `cannot be read (${code})`}`);
  }
  const parsed = dockerConfig.safeParse(json);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  throw new RegistryError("REGISTRY_CREDENTIALS", `${file}: ${issue?.path.join(".")}: ${issue?.message.replace(/, received .*/, "")}`);
}

function abortable<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(new RegistryError("REGISTRY_CREDENTIALS", "the call ended while a credential helper was asked"));
    if (signal.aborted) return onAbort();
    signal.addEventListener("abort", onAbort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", onAbort));
  });
}
