/**
 * Digests, checksums and compression on all cores, in worker threads with synchronous calls: `node:zlib`'s asynchronous form makes a context
 * and four thread-pool hops a call, which for 1 MiB chunks reached 47 MB/s against 150 MB/s a thread (2 cores, Node 26.10).
 *
 * Invariants: buffers are shared with the threads, never sent, and come back to be filled again; those that are out have at most
 * `bytesInFlightMax` bytes, or are as many as there are threads and one more. A thread has at most `jobsPerThreadMax` jobs.
 */
import { availableParallelism } from "node:os";
import { extname } from "node:path";
import type { Worker } from "node:worker_threads";
import { BuilderError } from "./errors.ts";
import { bytesInFlightMax, compressThreadsMax, jobsPerThreadMax, packBufferBytesMin, packSlackBytes, threadStartBytes } from "./limits.ts";
import { type Packed, type PackJob, packHere, type ReadFailure } from "./pack.ts";
import { startThread } from "./start-thread.ts";

interface Task {
  job: PackJob;
  resolve(packed: Packed): void;
  reject(failure: unknown): void;
}

/** The threads' file lies beside this one, as source, as library or as bundle. */
const threadFile = new URL(`./pack-worker${extname(import.meta.url)}`, import.meta.url);

class PackThread {
  readonly worker: Worker;
  readonly tasks: Task[] = [];

  constructor(onIdle: () => void) {
    this.worker = startThread(threadFile);
    this.worker.on("message", (answer: Packed | ReadFailure | string) => {
      const task = this.tasks.shift();
      if (typeof answer === "string") task?.reject(new BuilderError("BUILD_OUTPUT", `compression failed: ${answer}`));
      else if (task) settle(task, answer);
      onIdle();
    });
    this.worker.on("error", (cause: Error) => {
      for (const task of this.tasks.splice(0))
        task.reject(new BuilderError("BUILD_OUTPUT", `a compression thread failed: ${cause.message}`, { cause }));
    });
  }

  run(task: Task): void {
    this.tasks.push(task);
    this.worker.postMessage(task.job);
  }
}

function settle({ resolve, reject }: Task, answer: Packed | ReadFailure): void {
  if (!("path" in answer)) {
    resolve(answer);
    return;
  }
  const path = JSON.stringify(Buffer.from(answer.path, "latin1").toString()).slice(1, -1);
  const why = answer.message ?? `${path} became shorter while it was read: it ends at byte ${answer.endedAt} now`;
  reject(new BuilderError("BUILD_SOURCE", why));
}

/** Shared by all blobs that are built at the same time. Its threads start when there is enough to do. */
export class CompressPool implements AsyncDisposable {
  readonly #threadCount: number;
  readonly #threads: PackThread[] = [];
  readonly #queue: Task[] = [];
  readonly #spare: SharedArrayBuffer[] = [];
  readonly #waiting: Array<() => void> = [];
  #buffersOut = 0;
  #bytesOut = 0;
  #bytesSeen = 0;

  /** `threads`: at most so many; default: one a core */
  constructor({ threads = availableParallelism() }: { threads?: number } = {}) {
    this.#threadCount = Math.min(threads, compressThreadsMax);
  }

  /** A buffer for at least `bytes` bytes and `packSlackBytes` behind them, once there is room for it: those who wait get theirs in order of arrival. Its content is whatever was there. */
  async takeBuffer(bytes: number): Promise<SharedArrayBuffer> {
    const size = Math.max(packBufferBytesMin, 2 ** Math.ceil(Math.log2(bytes))) + packSlackBytes;
    if (this.#waiting.length > 0 || !this.#hasRoom(size)) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    while (!this.#hasRoom(size)) await new Promise<void>((resolve) => this.#waiting.unshift(resolve));
    this.#buffersOut++;
    this.#bytesOut += size;
    const spare = this.#spare.findIndex(({ byteLength }) => byteLength === size);
    return spare < 0 ? new SharedArrayBuffer(size) : (this.#spare.splice(spare, 1)[0] as SharedArrayBuffer);
  }

  #hasRoom(size: number): boolean {
    return this.#buffersOut <= this.#threadCount || this.#bytesOut + size <= bytesInFlightMax;
  }

  /** Gives a buffer back; nobody may use it any more. */
  giveBuffer(buffer: SharedArrayBuffer): void {
    this.#buffersOut--;
    this.#bytesOut -= buffer.byteLength;
    // Of another size than those in use now: blobs with other chunk sizes came before.
    while (this.#spare.length > 0 && this.#spare[0].byteLength !== buffer.byteLength) this.#spare.shift();
    this.#spare.push(buffer);
    this.#waiting.shift()?.();
  }

  /** Packs in place. @throws BuilderError BUILD_SOURCE (a file can not be read), BUILD_OUTPUT */
  async pack(job: PackJob): Promise<Packed> {
    for (const length of job.lengths) this.#bytesSeen += length;
    return await new Promise<Packed>((resolve, reject) => {
      const task = { job, resolve, reject };
      if (this.#bytesSeen < threadStartBytes) {
        settle(task, packHere(job));
      } else {
        this.#queue.push(task);
        this.#dispatch();
      }
    });
  }

  #dispatch(): void {
    while (this.#queue.length > 0) {
      let thread = this.#threads.reduce<PackThread | undefined>(
        (best, next) => (best && best.tasks.length <= next.tasks.length ? best : next),
        undefined,
      );
      if ((!thread || thread.tasks.length > 0) && this.#threads.length < this.#threadCount) {
        thread = new PackThread(() => this.#dispatch());
        this.#threads.push(thread);
      }
      if (!thread || thread.tasks.length >= jobsPerThreadMax) return;
      thread.run(this.#queue.shift() as Task);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#threads.splice(0).map(({ worker }) => worker.terminate()));
  }
}
