import type { Engine } from "../engine.ts";
import { FuseEngine, type FuseEngineOptions } from "./fuse-engine.ts";

export type { FailoverPolicy, FuseEngineOptions } from "./fuse-engine.ts";
export { runFuseWorker } from "./worker.ts";

/** The engine that serves images through `/dev/fuse`. Attach images before `start` or `resume` to have them there from the first request on. */
export function createFuseEngine(options: FuseEngineOptions): Engine {
  return new FuseEngine(options);
}
