/** Where the stored bytes of an image's blobs come from, by the options that `unpack`, `compact` and `optimize` share. Source: spec/nydus-image.md, section 3, GETBACKEND */
import { readFile } from "node:fs/promises";
import { type BlobBackend, localfsBackend } from "@nydus-ts/chunk-store";
import {
  type Credentials,
  credentialOfAuth,
  nydusdHttpProxyOptions,
  objectStoreBackend,
  registryBackend,
  registryEnvironment,
  staticCredentials,
} from "@nydus-ts/registry-client";
import { type Command, Option } from "commander";
import { NydusImageError } from "./errors.ts";
import { bucketExample, bucketOptions } from "./stored-blobs.ts";

export interface BackendFlags {
  blob?: string | undefined;
  blobDir?: string;
  backendType?: string;
  backendConfig?: string;
  backendConfigFile?: string;
}

/** Adds the options of `BackendFlags` that name a back end. */
export function addBackendOptions(command: Command): Command {
  return command
    .option("--backend-type <type>", "where the blobs are: registry, oss, s3, http-proxy, localfs")
    .addOption(
      new Option(
        "--backend-config <json>",
        `its configuration: {"host": "HOST", "repo": "NAME", "auth": "BASE64"}, ${bucketExample} or {"dir": "DIRECTORY"}`,
      ).conflicts("backendConfigFile"),
    )
    .option("--backend-config-file <path>", "the same in a file");
}

/**
 * Nothing is contacted yet.
 * @param options  how the verb names its options in the message
 * @throws NydusImageError IMAGE_ARGUMENT; RegistryError REGISTRY_CONFIG
 */
export async function openBackend(flags: BackendFlags, options: string): Promise<BlobBackend> {
  if (flags.backendType !== undefined) return await openRemote(flags.backendType, await readConfig(flags));
  if (flags.blob !== undefined) return localfsBackend({ blobFile: flags.blob });
  if (flags.blobDir !== undefined) return localfsBackend({ dir: flags.blobDir });
  throw new NydusImageError("IMAGE_ARGUMENT", `invalid backend configuration, ${options} must be specified`);
}

async function readConfig({ backendConfig, backendConfigFile }: BackendFlags): Promise<Readonly<Record<string, unknown>>> {
  if (backendConfig === undefined && backendConfigFile === undefined)
    throw new NydusImageError("IMAGE_ARGUMENT", "--backend-config or --backend-config-file must be specified");
  try {
    const value: unknown = JSON.parse(backendConfigFile === undefined ? backendConfig! : await readFile(backendConfigFile, "utf8"));
    if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  } catch (cause) {
    // The text may hold a password, and the parser's message may hold the text.
    const why = cause instanceof SyntaxError ? "is not JSON" : `can not be read: ${(cause as Error).message}`;
    throw new NydusImageError("IMAGE_ARGUMENT", `the backend configuration ${why}`);
  }
  throw new NydusImageError("IMAGE_ARGUMENT", "the backend configuration is not a JSON object");
}

async function openRemote(type: string, config: Readonly<Record<string, unknown>>): Promise<BlobBackend> {
  const text = (key: string): string => {
    const value = config[key] ?? "";
    if (typeof value !== "string") throw new NydusImageError("IMAGE_ARGUMENT", `the backend configuration has a "${key}" that is no text`);
    return value;
  };
  const required = (key: string): string => {
    if (text(key) === "") throw new NydusImageError("IMAGE_ARGUMENT", `the backend configuration of ${type} names no "${key}"`);
    return text(key);
  };
  if (type === "localfs") return localfsBackend({ dir: required("dir") });
  if (type === "oss" || type === "s3") return objectStoreBackend(bucketOptions(type, config).options);
  if (type === "http-proxy") {
    const table = { addr: required("addr"), path: text("path") };
    return objectStoreBackend(nydusdHttpProxyOptions(table, { file: "the backend configuration", key: type }));
  }
  if (type !== "registry") {
    const known = "registry, oss, s3, http-proxy, localfs";
    throw new NydusImageError("IMAGE_ARGUMENT", `--backend-type ${JSON.stringify(type)} is not known: it is one of ${known}`);
  }
  const [host, repository, scheme] = [required("host"), required("repo"), text("scheme")];
  if (scheme !== "" && scheme !== "http" && scheme !== "https")
    throw new NydusImageError("IMAGE_ARGUMENT", `the backend configuration has the scheme ${JSON.stringify(scheme)}: it is http or https`);
  return await registryBackend({
    host,
    repository,
    ...(scheme === "" ? {} : { scheme }),
    credentials: credentialsOf(text("auth"), text("registry_token")),
    skipVerify: config["skip_verify"] === true,
    ...registryEnvironment(host, scheme === "" ? undefined : scheme, process.env),
  });
}

function credentialsOf(auth: string, token: string): Credentials {
  const source = { source: "the backend configuration" };
  if (auth !== "") return staticCredentials(credentialOfAuth(auth), source);
  return staticCredentials(token === "" ? undefined : { kind: "bearer", token }, source);
}
