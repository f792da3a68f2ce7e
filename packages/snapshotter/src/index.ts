export { type LoadedConfig, loadConfig, type Overrides } from "./config/load.ts";
export { type Config, configSchema } from "./config/schema.ts";
export { messageOf, SnapshotterError, type SnapshotterErrorCode } from "./errors.ts";
export { type ExitCode, type MainIo, main } from "./main.ts";
export { METHODS, type MethodName, type ReplyOf, type RequestOf, serviceDefinition } from "./service/proto.ts";
