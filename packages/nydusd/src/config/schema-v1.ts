import { z } from "zod";
import {
  cacheKinds,
  type configV2Schema,
  filecacheSchema,
  localdiskSchema,
  localfsSchema,
  ossSchema,
  registrySchema,
  s3Schema,
} from "./schema-v2.ts";

/*
 * nydusd configuration, version 1 (JSON only), and how it becomes version 2. Source: spec/nydusd.md 3.5.2.
 */

const prefetchV1Schema = z.strictObject({
  enable: z.boolean().default(false),
  threads_count: z.number().int().min(0).default(8),
  merging_size: z.number().int().min(0).default(1_048_576),
  bandwidth_rate: z.number().int().min(0).default(0),
  prefetch_all: z.boolean().default(true),
  stream_prefetch: z.boolean().default(false),
});

const backendV1Schema = z.discriminatedUnion(
  "type",
  [
    z.strictObject({ type: z.literal("localfs"), config: localfsSchema }),
    z.strictObject({ type: z.literal("localdisk"), config: localdiskSchema }),
    z.strictObject({ type: z.literal("oss"), config: ossSchema }),
    z.strictObject({ type: z.literal("s3"), config: s3Schema }),
    z.strictObject({ type: z.literal("registry"), config: registrySchema }),
  ],
  { error: 'expected one of "localfs", "localdisk", "oss", "s3", "registry" (http-proxy needs a version 2 configuration)' },
);

/** `compressed` stands in many sample files inside `config`, where it has never had an effect. */
const cacheTableV1Schema = filecacheSchema.extend({ compressed: z.boolean().optional() });

export const configV1Schema = z.strictObject({
  device: z.strictObject({
    id: z.string().default(""),
    backend: backendV1Schema,
    external_backends: z.array(z.unknown()).default([]),
    cache: z
      .strictObject({
        type: z.enum(cacheKinds).default(""),
        compressed: z.boolean().default(false),
        validate: z.boolean().default(true),
        config: cacheTableV1Schema.nullish(),
        prefetch_config: z.unknown().optional(),
      })
      .superRefine((value, context) => {
        if (value.type !== "" && value.type !== "dummycache" && value.config == null) {
          context.addIssue({ code: "custom", path: ["config"], message: `is missing, but type is "${value.type}"; it holds work_dir` });
        }
      })
      .prefault({}),
  }),
  mode: z.enum(["direct", "cached"]),
  digest_validate: z.boolean().default(false),
  iostats_files: z.boolean().default(false),
  enable_xattr: z.boolean().default(false),
  access_pattern: z.boolean().default(false),
  latest_read_files: z.boolean().default(false),
  amplify_io: z.number().int().min(0).max(0x1000_0000).default(1_048_576),
  fs_prefetch: prefetchV1Schema.nullish(),
});
export type ConfigV1 = z.output<typeof configV1Schema>;

/** A v1 configuration as version 2 text would say it; the v2 schema then checks it once more. */
export function toV2(v1: ConfigV1): z.input<typeof configV2Schema> {
  const { backend, cache } = v1.device;
  const old = v1.fs_prefetch;
  const prefetch =
    old == null
      ? undefined
      : {
          enable: old.enable,
          threads: old.threads_count,
          batch_size: old.merging_size,
          bandwidth_limit: old.bandwidth_rate,
          prefetch_all: old.prefetch_all,
          stream_prefetch: old.stream_prefetch,
        };
  const { compressed: _ignored, ...filecache } = cache.config ?? { compressed: undefined };
  const isFile = cache.type === "blobcache" || cache.type === "filecache";
  return {
    version: 2,
    id: v1.device.id,
    backend: { type: backend.type, [backend.type]: backend.config },
    cache: {
      type: cache.type,
      compressed: cache.compressed,
      validate: cache.validate,
      ...(prefetch?.enable ? { prefetch } : {}),
      ...(isFile ? { filecache } : {}),
      ...(cache.type === "fscache" ? { fscache: { work_dir: cache.config?.work_dir } } : {}),
    },
    rafs: {
      mode: v1.mode,
      batch_size: v1.amplify_io,
      validate: v1.digest_validate,
      enable_xattr: v1.enable_xattr,
      iostats_files: v1.iostats_files,
      access_pattern: v1.access_pattern,
      latest_read_files: v1.latest_read_files,
      ...(prefetch === undefined ? {} : { prefetch }),
    },
  };
}
