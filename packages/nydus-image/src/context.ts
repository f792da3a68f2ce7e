import type { Io } from "./io.ts";
import type { Log } from "./log.ts";

/** What commands share. */
export interface Context {
  readonly io: Io;
  /** made when the verb runs, from the global options */
  log(): Log;
}
