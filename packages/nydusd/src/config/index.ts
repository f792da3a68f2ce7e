export { exportConfig } from "./export.ts";
export { type ParsedConfig, parseConfig, readConfigFile } from "./parse.ts";
export type {
  CacheConfig,
  ConfigV2,
  HttpProxyConfig,
  MirrorConfig,
  ObjectStoreConfig,
  PrefetchConfig,
  RafsConfig,
  RegistryConfig,
} from "./schema-v2.ts";
