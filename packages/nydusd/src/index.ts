export { type ExitCode, type MainIo, main } from "./main.ts";
