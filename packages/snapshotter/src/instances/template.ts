import { existsSync, readFileSync } from "node:fs";
import { z } from "zod";
import { messageOf, SnapshotterError } from "../errors.ts";

// Only what is filled in here is described; every other member passes through as it is. Source: spec/snapshotter.md 3.
const templateSchema = z.looseObject({
  device: z.looseObject({
    id: z.string().optional(),
    backend: z.looseObject({
      type: z.enum(["registry", "localfs", "oss", "s3"], { error: 'expected "registry", "localfs", "oss" or "s3"' }),
      config: z.record(z.string(), z.unknown()).optional(),
    }),
    cache: z.looseObject({ type: z.string().optional(), config: z.record(z.string(), z.unknown()).optional() }).optional(),
  }),
  mode: z.string().optional(),
});

export type Template = z.output<typeof templateSchema>;

/** Used when the default path holds no file: a registry, a verified cache, nothing fetched ahead but what an image lists. */
const BUILT_IN: Template = {
  device: {
    backend: { type: "registry", config: { timeout: 5, connect_timeout: 5, retry_limit: 2 } },
    cache: { type: "blobcache", config: {} },
  },
  mode: "direct",
  digest_validate: false,
  iostats_files: false,
  enable_xattr: true,
  fs_prefetch: { enable: true, threads_count: 8, merging_size: 1048576, prefetch_all: false },
};

/**
 * nydusd's configuration as a template (version 1, JSON).
 * @param optional  the file may be absent: the built-in template takes its place
 * @throws SnapshotterError CONFIG_INVALID with the path and key
 */
export function loadTemplate(path: string, options: { optional: boolean }): Template {
  if (options.optional && !existsSync(path)) return BUILT_IN;
  let value: unknown;
  try {
    value = JSON.parse(readFileSync(path, "utf8"));
  } catch (error) {
    throw new SnapshotterError(
      "CONFIG_INVALID",
      `${path}: nydusd's configuration must be readable JSON (version 1): ${messageOf(error)}; see misc/snapshotter/nydusd-config.json`,
      { cause: error },
    );
  }
  const result = templateSchema.safeParse(value);
  if (result.success) return result.data;
  throw new SnapshotterError(
    "CONFIG_INVALID",
    result.error.issues.map((issue) => `${path}: ${issue.path.join(".") || "file"}: ${issue.message}`).join("\n"),
  );
}

export interface RegistryPlace {
  readonly host: string;
  readonly repository: string;
  readonly scheme: string | undefined;
  readonly hostsDirs: readonly string[];
  readonly auth: { readonly kind: "basic"; readonly base64: string } | { readonly kind: "bearer"; readonly token: string } | undefined;
}

/** The template completed for one instance, as text for the daemon. It may hold credentials: files of it are 0600, and it is never logged. */
export function completeTemplate(
  template: Template,
  instance: { key: string; cache: string; registry: RegistryPlace | undefined },
): string {
  const { device } = template;
  const config = { ...device.backend.config };
  const { registry } = instance;
  if (registry !== undefined) {
    config["host"] = registry.host;
    config["repo"] = registry.repository;
    if (registry.scheme !== undefined) config["scheme"] = registry.scheme;
    if (registry.hostsDirs.length > 0) config["hosts_dirs"] = registry.hostsDirs;
    if (registry.auth?.kind === "basic") config["auth"] = registry.auth.base64;
    if (registry.auth?.kind === "bearer") config["registry_token"] = registry.auth.token;
  }
  const cache = { ...device.cache, type: device.cache?.type || "blobcache", config: { ...device.cache?.config, work_dir: instance.cache } };
  return JSON.stringify({
    mode: "direct",
    ...template,
    device: { ...device, id: `/${instance.key}`, backend: { ...device.backend, config }, cache },
  });
}
