import type { Engine } from "./engines/engine.ts";
import { inflightCheckMs, inflightWarnMs } from "./limits.ts";
import type { Log } from "./log/log.ts";

/** Names requests of the kernel that are in service for long, once each: a container that hangs leaves a trace in the log. */
export function watchInflight(engine: Engine, log: Log): Disposable {
  const named = new Set<number>();
  const timer = setInterval(() => {
    const now = Date.now() / 1000;
    const slow = engine.inflight().filter((request) => now - request.timestampSecs > inflightWarnMs / 1000);
    for (const request of slow) {
      if (named.has(request.unique)) continue;
      const age = Math.round(now - request.timestampSecs);
      log.warn(`request unique=${request.unique} opcode=${request.opcode} node=${request.inode} is in service for ${age} s`);
    }
    named.clear();
    for (const request of slow) named.add(request.unique);
  }, inflightCheckMs);
  timer.unref();
  return { [Symbol.dispose]: () => clearInterval(timer) };
}
