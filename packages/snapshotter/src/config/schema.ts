import { z } from "zod";
import { rootBytesMax } from "../limits.ts";
import { parseDurationMs } from "./duration.ts";

// Defaults stand here and nowhere else. Source: spec/snapshotter.md 2. Keys keep the original's spelling; ours are marked so.

const duration = (fallback: string) =>
  z
    .union([z.string(), z.number()], { error: 'expected a duration such as "10s" or "1m30s"' })
    .default(fallback)
    .transform((value, context) => {
      const ms = parseDurationMs(value);
      if (ms !== undefined) return ms;
      context.addIssue({ code: "custom", message: 'expected a duration such as "10s" or "1m30s"', input: value });
      return z.NEVER;
    });

const text = (fallback: string) => z.string().default(fallback);
const flag = (fallback: boolean) => z.boolean().default(fallback);
const count = (fallback: number, max = Number.MAX_SAFE_INTEGER) => z.int().min(0).max(max).default(fallback);
const table = <S extends z.ZodRawShape>(shape: S) => z.object(shape).prefault({} as never);

const levels = ["panic", "fatal", "error", "warn", "warning", "info", "debug", "trace"] as const;
const exportModes = [
  "",
  "none",
  "layer_verity_only",
  "image_verity_only",
  "layer_block",
  "image_block",
  "layer_block_with_verity",
  "image_block_with_verity",
] as const;

export const configSchema = z.object({
  version: z.literal(1, { error: "expected 1, the only version of this file there is" }),
  root: text("/var/lib/containerd/io.containerd.snapshotter.v1.nydus").refine(
    (root) => root.startsWith("/") && Buffer.byteLength(root) <= rootBytesMax,
    {
      error: `expected an absolute path of at most ${rootBytesMax} bytes (sockets below it must fit 108)`,
    },
  ),
  address: text("/run/containerd-nydus/containerd-nydus-grpc.sock").refine(
    (address) => address.startsWith("/") && Buffer.byteLength(address) <= 107,
    {
      error: "expected an absolute path of at most 107 bytes",
    },
  ),
  uid: count(0),
  gid: count(0),
  daemon_mode: z.enum(["shared", "dedicated", "multiple", "none"]).default("shared"),
  cleanup_on_close: flag(false),
  system: table({
    enable: flag(false),
    address: text("/run/containerd-nydus/system.sock"),
    uid: count(0),
    gid: count(0),
    debug: table({ daemon_cpu_profile_duration_secs: count(0), pprof_address: text("") }),
  }),
  daemon: table({
    nydusd_config: text("/etc/nydus/nydusd-config.json"),
    nydusd_path: text(""),
    nydusimage_path: text(""),
    fs_driver: z.enum(["fusedev", "fscache", "blockdev", "proxy", "nodev"]).default("fusedev"),
    recover_policy: z.enum(["none", "restart", "failover"]).default("failover"),
    threads_number: count(0, 1024),
    log_rotation_size: count(100),
    failover_policy: z.enum(["none", "resend", "flush"]).default("resend"),
  }),
  cgroup: table({ enable: flag(false), memory_limit: text("") }),
  log: table({
    log_to_stdout: flag(false),
    level: z.enum(levels).default("info"),
    dir: text(""),
    log_rotation_max_size: count(200),
    log_rotation_max_backups: count(5),
    log_rotation_max_age: count(0),
    log_rotation_local_time: flag(true),
    log_rotation_compress: flag(true),
  }),
  metrics: table({ address: text(""), hung_io_interval: duration("10s"), collect_interval: duration("1m") }),
  remote: table({
    convert_vpc_registry: flag(false),
    skip_ssl_verify: flag(false),
    mirrors_config: table({
      dir: text(""),
      // Ours: containerd's own hosts directory; "auto" takes `config_path` of /etc/containerd/config.toml, "" looks nowhere.
      containerd_config_path: text("auto"),
    }),
    auth: table({
      enable_kubeconfig_keychain: flag(false),
      kubeconfig_path: text(""),
      enable_cri_keychain: flag(false),
      image_service_address: text(""),
      enable_kubelet_credential_providers: flag(false),
      credential_provider_config: text(""),
      credential_provider_bin_dir: text(""),
      credential_renewal_interval: duration("0s"),
    }),
  }),
  snapshot: table({
    enable_nydus_overlayfs: flag(false),
    nydus_overlayfs_path: text(""),
    enable_kata_volume: flag(false),
    sync_remove: flag(false),
    enable_overlayfs_volatile: flag(false),
  }),
  cache_manager: table({ disable: flag(false), gc_period: duration("24h"), cache_dir: text("") }),
  image: table({ public_key_file: text(""), validate_signature: flag(false) }),
  // Ours: where containerd is asked for an image whose reference did not come with the labels; "" asks nobody.
  containerd: table({ address: text("/run/containerd/containerd.sock") }),
  experimental: table({
    enable_stargz: flag(false),
    enable_referrer_detect: flag(false),
    enable_index_detect: flag(false),
    enable_backend_source: flag(false),
    tarfs: table({
      enable_tarfs: flag(false),
      mount_tarfs_on_host: flag(false),
      tarfs_hint: flag(false),
      max_concurrent_proc: count(0),
      export_mode: z.enum(exportModes).default(""),
    }),
  }),
});

export type Config = z.output<typeof configSchema>;

/** Settings this version refuses: with them the original serves images another way, so ignoring them would serve wrong mounts. */
export const refusals: readonly {
  readonly path: readonly string[];
  readonly refused: (config: Config) => boolean;
  readonly advice: string;
}[] = [
  {
    path: ["daemon", "fs_driver"],
    refused: ({ daemon }) => daemon.fs_driver !== "fusedev",
    advice: 'this version serves images with "fusedev" only',
  },
  {
    path: ["snapshot", "enable_nydus_overlayfs"],
    refused: ({ snapshot }) => snapshot.enable_nydus_overlayfs,
    advice: "mounts for kata are not supported by this version",
  },
  {
    path: ["snapshot", "enable_kata_volume"],
    refused: ({ snapshot }) => snapshot.enable_kata_volume,
    advice: "mounts for kata are not supported by this version",
  },
  {
    path: ["image", "validate_signature"],
    refused: ({ image }) => image.validate_signature,
    advice: "signatures of bootstraps are not checked by this version",
  },
  {
    path: ["experimental", "tarfs", "enable_tarfs"],
    refused: ({ experimental }) => experimental.tarfs.enable_tarfs,
    advice: "tarfs is not supported by this version",
  },
  {
    path: ["experimental", "enable_backend_source"],
    refused: ({ experimental }) => experimental.enable_backend_source,
    advice: "configuration is passed in files of mode 0600 instead",
  },
];

/** Settings without effect in this version: nothing is served wrongly without them. */
export const ineffective: readonly {
  readonly path: readonly string[];
  readonly given: (config: Config) => boolean;
  readonly consequence: string;
}[] = [
  {
    path: ["experimental", "enable_stargz"],
    given: ({ experimental }) => experimental.enable_stargz,
    consequence: "eStargz layers are unpacked like any other",
  },
  {
    path: ["experimental", "enable_referrer_detect"],
    given: ({ experimental }) => experimental.enable_referrer_detect,
    consequence: "ordinary images are unpacked",
  },
  {
    path: ["experimental", "enable_index_detect"],
    given: ({ experimental }) => experimental.enable_index_detect,
    consequence: "ordinary images are unpacked",
  },
  { path: ["remote", "convert_vpc_registry"], given: ({ remote }) => remote.convert_vpc_registry, consequence: "hosts are used as named" },
  {
    path: ["remote", "auth", "enable_cri_keychain"],
    given: ({ remote }) => remote.auth.enable_cri_keychain,
    consequence: "credentials come from labels and the docker config",
  },
  {
    path: ["remote", "auth", "enable_kubeconfig_keychain"],
    given: ({ remote }) => remote.auth.enable_kubeconfig_keychain,
    consequence: "credentials come from labels and the docker config",
  },
  {
    path: ["remote", "auth", "enable_kubelet_credential_providers"],
    given: ({ remote }) => remote.auth.enable_kubelet_credential_providers,
    consequence: "credentials come from labels and the docker config",
  },
  { path: ["cgroup", "enable"], given: ({ cgroup }) => cgroup.enable, consequence: "daemons stay in the cgroup of this program" },
  {
    path: ["system", "debug", "pprof_address"],
    given: ({ system }) => system.debug.pprof_address !== "",
    consequence: "use node's --inspect",
  },
];
