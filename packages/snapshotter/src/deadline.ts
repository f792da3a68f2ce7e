/** Settles as `work` does, or rejects with `late()` after `deadlineMs`; the work itself goes on. */
export function withDeadline<T>(work: Promise<T>, deadlineMs: number, late: () => Error): Promise<T> {
  const { promise, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(late()), deadlineMs);
  return Promise.race([work, promise]).finally(() => clearTimeout(timer));
}
