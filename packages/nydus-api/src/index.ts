export { NydusdClient, type NydusdClientOptions } from "./client.ts";
export { NydusApiError, type NydusApiErrorCode, type NydusApiErrorDetails } from "./errors.ts";
export { fileOperations } from "./file-operations.ts";
export { type Explanation, explanationSchema } from "./explanation.ts";
export { answerBytesMax, callTimeoutDefaultMs, requestBytesMax } from "./limits.ts";
export {
  type BackendMetricsAnswer,
  type BlobcacheMetricsAnswer,
  backendMetricsSchema,
  blobcacheMetricsSchema,
  type DaemonInfo,
  type DaemonState,
  daemonConfigureSchema,
  daemonInfoSchema,
  daemonStates,
  type EventsAnswer,
  errorBodySchema,
  eventsSchema,
  type FsMetricsAnswer,
  fsMetricsSchema,
  type InflightAnswer,
  inflightSchema,
  type MountedBackend,
  type MountRequest,
  mountedBackendSchema,
  mountRequestSchema,
  type RafsInfo,
  type RuntimeConfig,
  rafsInfoSchema,
  runtimeConfigSchema,
} from "./schemas.ts";
export type { CallOptions } from "./transport.ts";
