import { constants } from "node:os";
import { ErrnoError } from "./errors.ts";
import { koffi } from "./libc.ts";

export interface WaitOptions {
  /** For this wait; 0 or less fails at once. */
  readonly deadlineMs: number;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Waits on the event loop until a descriptor (socket, pidfd, eventfd, pipe) is readable or writable. One waiter a descriptor.
 *
 * @throws ErrnoError ETIMEDOUT after `deadlineMs`
 * @throws DOMException AbortError when `signal` fires
 */
export function waitReady(fd: number, direction: "readable" | "writable", options: WaitOptions): Promise<void> {
  if (options.signal?.aborted) return Promise.reject(options.signal.reason);
  return new Promise((resolve, reject) => {
    const finish = (settle: () => void): void => {
      clearTimeout(timer);
      options.signal?.removeEventListener("abort", abort);
      handle.stop();
      handle.close();
      settle();
    };
    const abort = (): void => finish(() => reject(options.signal?.reason));
    const timer = setTimeout(
      () => finish(() => reject(new ErrnoError(`wait until ${direction}`, constants.errno.ETIMEDOUT))),
      Math.max(0, options.deadlineMs),
    );
    // koffi calls back without running promise reactions; setImmediate does.
    const handle = koffi.node.poll(fd, direction === "readable" ? { readable: true } : { writable: true }, () =>
      finish(() => setImmediate(resolve)),
    );
    options.signal?.addEventListener("abort", abort, { once: true });
  });
}
