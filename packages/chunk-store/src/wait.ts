import { ChunkStoreError } from "./errors.ts";

export interface WaitLimits {
  /** `performance.now()` at the deadline. */
  readonly deadlineAt: number;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Waits for `promise`, but not beyond the limits; what it stands for goes on.
 *
 * @param what  ends the sentence "waited too long for …"
 * @throws ChunkStoreError CHUNK_DEADLINE; the signal's reason
 */
export function waitFor<T>(promise: Promise<T>, { deadlineAt, signal }: WaitLimits, what: string): Promise<T> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted === true) return reject(signal.reason);
    const timer = setTimeout(() => {
      end();
      reject(new ChunkStoreError("CHUNK_DEADLINE", `waited too long for ${what}`));
    }, deadlineAt - performance.now());
    const abort = (): void => {
      end();
      reject(signal?.reason);
    };
    const end = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
    };
    signal?.addEventListener("abort", abort, { once: true });
    promise.then(
      (value) => {
        end();
        resolve(value);
      },
      (error) => {
        end();
        reject(error);
      },
    );
  });
}
