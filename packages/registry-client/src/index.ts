export { type RegistryBackend, type RegistryBackendMetrics, type RegistryBackendOptions, registryBackend } from "./backend.ts";
export { type CallOptions, RegistryClient, type RegistryClientOptions } from "./client.ts";
export { anonymous, type Credential, type Credentials, credentialOfAuth, firstOf, staticCredentials } from "./credentials/credentials.ts";
export { type DockerConfigOptions, dockerConfigCredentials } from "./credentials/docker-config.ts";
export {
  currentPlatform,
  type Descriptor,
  formatPlatform,
  type ImageIndex,
  type ImageManifest,
  isIndexType,
  MEDIA_TYPES,
  type Platform,
  parseManifest,
  parsePlatform,
  platformMatches,
  selectPlatform,
} from "./descriptor.ts";
export { RegistryError, type RegistryErrorCode, type RequestSummary, withoutSecrets } from "./errors.ts";
export type { ProxyOptions } from "./http/proxy.ts";
export { HostTraffic } from "./http/traffic.ts";
export { type RegistryEnvironment, registryEnvironment } from "./images/environment.ts";
export type { BlobBytes, ImageSource, ImageTarget, WriteOptions } from "./images/image.ts";
export { LayoutImage } from "./images/layout-image.ts";
export { type OpenImageOptions, openImageSource, openImageTarget } from "./images/open.ts";
export { RegistryImage, type RegistryImageOptions } from "./images/registry-image.ts";
export {
  type NydusdConnection,
  type NydusdPlace,
  type NydusdProxy,
  type NydusdRegistry,
  nydusdCredentials,
  nydusdRegistryOptions,
} from "./nydusd-registry.ts";
export { type ObjectStoreBackend, type ObjectStoreBackendOptions, objectStoreBackend } from "./object-store/backend.ts";
export {
  type NydusdHttpProxy,
  type NydusdObjectStore,
  nydusdHttpProxyOptions,
  nydusdObjectStoreOptions,
} from "./object-store/nydusd-object-store.ts";
export { ObjectStore, type ObjectStoreOptions } from "./object-store/object-store.ts";
export type { ObjectStoreAddress } from "./object-store/place.ts";
export type { ObjectSource, PutOptions } from "./object-store/upload.ts";
export type { PushBlobOptions, PushSource } from "./push/push-blob.ts";
export { parseReference, type Reference, serverOf } from "./reference.ts";
