export type { MainIo } from "./commands/context.ts";
export type { Finding, Status } from "./doctor/finding.ts";
export { type ExitCode, main } from "./main.ts";
