import { z } from "zod";

/*
 * nydusd configuration, version 2 (JSON or TOML). Keys, types and defaults of spec/nydusd.md 3.2-3.5; ours are marked "extension".
 * Defaults stand here and nowhere else.
 */

const uint = (max: number) => z.number().int().min(0).max(max);
const u32 = uint(0xffff_ffff);
const window = uint(0x1000_0000);
const nonEmpty = z.string().min(1, "must not be empty");
/** base64 of `user:password`; an empty string is the same as no credentials. */
const basicAuth = z
  .string()
  .refine((text) => text === "" || Buffer.from(text, "base64").includes(":"), "expected base64 of user:password")
  .transform((text) => (text === "" ? undefined : text))
  .nullish()
  .transform((text) => text ?? undefined);

export const proxySchema = z
  .strictObject({
    url: z.string().default(""),
    ping_url: z.string().default(""),
    fallback: z.boolean().default(true),
    check_interval: uint(2 ** 53 - 1).default(5),
    use_http: z.boolean().default(false),
    check_pause_elapsed: uint(2 ** 53 - 1).default(300),
    dragonfly_scheduler_endpoint: z.string().default(""),
  })
  .prefault({});

export const mirrorSchema = z.strictObject({
  host: z.string(),
  headers: z.record(z.string(), z.string()).default({}),
  auth_through: z.boolean().default(false),
  ping_url: z.string().default(""),
  health_check_interval: uint(2 ** 53 - 1).default(5),
  failure_limit: uint(255).default(5),
  health_check_pause_elapsed: uint(2 ** 53 - 1).default(300),
});
export type MirrorConfig = z.output<typeof mirrorSchema>;

const connection = {
  skip_verify: z.boolean().default(false),
  ca_cert_files: z.array(z.string()).default([]),
  timeout: u32.default(5),
  connect_timeout: u32.default(5),
  retry_limit: uint(255).default(0),
  proxy: proxySchema,
  mirrors: z.array(mirrorSchema).default([]),
};

export const localfsSchema = z
  .strictObject({
    blob_file: z.string().default(""),
    dir: z.string().default(""),
    alt_dirs: z.array(z.string()).default([]),
    /** Written by old tools, without effect. */
    readahead: z.boolean().optional(),
    readahead_sec: z.number().optional(),
  })
  .refine((value) => value.blob_file !== "" || value.dir !== "", "needs blob_file or dir");

export const localdiskSchema = z.strictObject({ device_path: nonEmpty, disable_gpt: z.boolean().default(false) });

export const registrySchema = z
  .strictObject({
    /** Absent: https, but http for a loopback address, as containerd does. */
    scheme: z.enum(["http", "https"]).optional(),
    host: nonEmpty,
    repo: nonEmpty,
    auth: basicAuth,
    registry_token: z.string().nullish(),
    blob_url_scheme: z.string().default(""),
    blob_redirected_host: z.string().default(""),
    ...connection,
    /** Extension: directories of `<host>/hosts.toml`, read again when they change. A valid entry replaces `mirrors`. */
    hosts_dirs: z.array(z.string()).default([]),
    /** Extension: bytes. Requests are whole blocks of this size at fixed places of a blob, for peer-to-peer networks; 0: as they come. */
    request_alignment: z
      .number()
      .int()
      .refine((value) => value === 0 || (value >= 65_536 && value <= 67_108_864), "expected 0, or 65536 to 67108864")
      .default(0),
  })
  .refine((value) => value.proxy.url === "" || value.mirrors.length === 0, "proxy.url and mirrors exclude each other; remove one of them");
export type RegistryConfig = z.output<typeof registrySchema>;

const objectStore = {
  scheme: z.enum(["http", "https"]).default("https"),
  object_prefix: z.string().default(""),
  access_key_id: z.string().default(""),
  access_key_secret: z.string().default(""),
  ...connection,
};
export const ossSchema = z.strictObject({ endpoint: nonEmpty, bucket_name: nonEmpty, ...objectStore });
export const s3Schema = z.strictObject({ endpoint: z.string(), region: nonEmpty, bucket_name: nonEmpty, ...objectStore });
export type ObjectStoreConfig = z.output<typeof ossSchema> | z.output<typeof s3Schema>;
export const httpProxySchema = z.strictObject({ addr: nonEmpty, path: z.string().default(""), ...connection });
export type HttpProxyConfig = z.output<typeof httpProxySchema>;

export const backendKinds = ["localfs", "localdisk", "oss", "s3", "registry", "http-proxy"] as const;

export const backendSchema = z
  .strictObject({
    type: z.enum(backendKinds),
    localfs: localfsSchema.nullish(),
    localdisk: localdiskSchema.nullish(),
    oss: ossSchema.nullish(),
    s3: s3Schema.nullish(),
    registry: registrySchema.nullish(),
    "http-proxy": httpProxySchema.nullish(),
  })
  .superRefine((value, context) => {
    if (value[value.type] == null) {
      context.addIssue({ code: "custom", path: [value.type], message: `is missing, but type is "${value.type}"` });
    }
  });

/** One prefetch table, in `cache` and in `rafs`. */
export const prefetchSchema = z
  .strictObject({
    enable: z.boolean(),
    threads: z.number().int().min(0).default(8),
    batch_size: z.number().int().min(0).default(1_048_576),
    bandwidth_limit: u32.default(0),
    prefetch_all: z.boolean().default(false),
    stream_prefetch: z.boolean().default(false),
  })
  .superRefine((value, context) => {
    if (!value.enable) return;
    if (value.threads < 1 || value.threads > 1024) {
      context.addIssue({ code: "custom", path: ["threads"], message: `expected 1 to 1024, found ${value.threads}` });
    }
    if (value.batch_size > 0x1000_0000) {
      context.addIssue({ code: "custom", path: ["batch_size"], message: `expected at most 268435456, found ${value.batch_size}` });
    }
  });
export type PrefetchConfig = z.output<typeof prefetchSchema>;

const noPrefetch = { enable: false, threads: 8, batch_size: 1_048_576, bandwidth_limit: 0, prefetch_all: false, stream_prefetch: false };

export const filecacheSchema = z.strictObject({
  work_dir: nonEmpty.default("."),
  disable_indexed_map: z.boolean().default(false),
  enable_encryption: z.boolean().default(false),
  enable_convergent_encryption: z.boolean().default(false),
  encryption_key: z.string().default(""),
});

export const cacheKinds = ["blobcache", "filecache", "fscache", "dummycache", ""] as const;

export const cacheSchema = z
  .strictObject({
    type: z.enum(cacheKinds).default(""),
    compressed: z.boolean().default(false),
    /** Extension: true when absent. The original's default is false. */
    validate: z.boolean().default(true),
    prefetch: prefetchSchema.nullish().transform((value) => value ?? noPrefetch),
    filecache: filecacheSchema.nullish(),
    fscache: z.strictObject({ work_dir: nonEmpty.default(".") }).nullish(),
  })
  .superRefine((value, context) => {
    const table = value.type === "blobcache" || value.type === "filecache" ? "filecache" : value.type === "fscache" ? "fscache" : undefined;
    if (table !== undefined && value[table] == null) {
      context.addIssue({ code: "custom", path: [table], message: `is missing, but type is "${value.type}"` });
    }
  });
export type CacheConfig = z.output<typeof cacheSchema>;

export const rafsSchema = z.strictObject({
  mode: z.enum(["direct", "cached"]).default("direct"),
  /** Most bytes a sequential miss is widened to. */
  batch_size: window.default(1_048_576),
  /** v5: the digests of all inodes are compared at the mount. v6 records none, so it changes nothing there. Data: `cache.validate`. */
  validate: z.boolean().default(false),
  enable_xattr: z.boolean().default(false),
  iostats_files: z.boolean().default(false),
  access_pattern: z.boolean().default(false),
  latest_read_files: z.boolean().default(false),
  prefetch: prefetchSchema.nullish().transform((value) => value ?? noPrefetch),
});
export type RafsConfig = z.output<typeof rafsSchema>;

const externalBackendSchema = z.strictObject({
  patch: z.record(z.string(), z.string()),
  type: z.string(),
  config: z.record(z.string(), z.string()),
});

export const configV2Schema = z.strictObject({
  version: z.literal(2),
  id: z.string().default(""),
  backend: backendSchema.nullish(),
  external_backends: z.array(externalBackendSchema).default([]),
  cache: cacheSchema.nullish(),
  rafs: rafsSchema.nullish(),
  overlay: z.strictObject({ upper_dir: z.string(), work_dir: z.string() }).nullish(),
});
export type ConfigV2 = z.output<typeof configV2Schema>;
