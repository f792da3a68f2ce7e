export { NydusImageError, type NydusImageErrorCode } from "./errors.ts";
export type { Io, Output } from "./io.ts";
export { type ExitCode, main } from "./main.ts";
export { nydusify } from "./nydusify/main.ts";
