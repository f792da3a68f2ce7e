export { exportConfig } from "./export.ts";
export { type ParsedConfig, parseConfig, readConfigFile } from "./parse.ts";
export type { CacheConfig, ConfigV2, MirrorConfig, PrefetchConfig, RafsConfig, RegistryConfig } from "./schema-v2.ts";
