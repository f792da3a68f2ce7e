/**
 * Compression on all cores. zstd runs in worker threads with synchronous calls: `node:zlib`'s asynchronous form makes a context and four
 * thread-pool hops a call, which for 1 MiB chunks reached 47 MB/s against 150 MB/s a thread (2 cores, Node 26.10).
 * lz4's binding has its own threads and no such cost.
 */
import { availableParallelism } from "node:os";
import { Worker } from "node:worker_threads";
import { type Compressed, type Compressor, compressHere, zstdBound } from "./codecs.ts";
import { BuilderError } from "./errors.ts";
import { compressThreadsMax, jobsPerThreadMax, threadGarbageBytesMax, threadStartBytes } from "./limits.ts";

interface Job {
  data: Uint8Array<ArrayBuffer>;
  bytes: number;
  isUnfit: ((stored: Uint8Array) => boolean) | undefined;
  resolve(result: Compressed): void;
  reject(failure: unknown): void;
}

interface Reply {
  buffer: ArrayBuffer;
  /** of what stands at the start of the buffer now, or in `short` */
  stored: number;
  /** a result that somebody may not want; the data is still there then */
  short: Uint8Array | undefined;
  failure: string | undefined;
}

/**
 * The whole program of a worker thread. It is started from its own text, so that it also runs where everything is bundled into one file;
 * it must therefore use nothing from around it.
 *
 * The result goes into the buffer that the data came in. zlib makes an output buffer of its own each time, as large as the largest possible
 * result, and V8 lets 30 to 60 MiB of them gather in each thread before it looks: so the thread looks itself, after every `collectBytes`.
 * Its heap is nearly empty, so that takes less than a millisecond.
 */
function workerProgram(load: NodeJS.Require, collectBytes: number): void {
  const { parentPort } = load("node:worker_threads") as typeof import("node:worker_threads");
  const { zstdCompressSync } = load("node:zlib") as typeof import("node:zlib");
  (load("node:v8") as typeof import("node:v8")).setFlagsFromString("--expose-gc");
  const collect = (load("node:vm") as typeof import("node:vm")).runInNewContext("gc") as () => void;
  let uncollected = 0;
  parentPort!.on("message", ({ buffer, bytes, bound }: { buffer: ArrayBuffer; bytes: number; bound: number }) => {
    try {
      const output = zstdCompressSync(new Uint8Array(buffer, 0, bytes), { chunkSize: bound });
      const stored = Math.min(output.length, bytes);
      const short = stored < 64 && stored < bytes ? new Uint8Array(output) : undefined;
      if (stored < bytes && !short) new Uint8Array(buffer).set(output);
      parentPort!.postMessage({ buffer, stored, short, failure: undefined }, [buffer]);
    } catch (failure) {
      parentPort!.postMessage({ buffer, stored: bytes, short: undefined, failure: String(failure) }, [buffer]);
    }
    uncollected += bound;
    if (uncollected < collectBytes) return;
    uncollected = 0;
    collect();
  });
}

class CompressThread {
  readonly worker: Worker;
  readonly jobs: Job[] = [];

  constructor(onIdle: () => void) {
    this.worker = new Worker(`(${workerProgram.toString()})(require, ${threadGarbageBytesMax})`, { eval: true, execArgv: [] });
    this.worker.on("message", ({ buffer, stored, short, failure }: Reply) => {
      const job = this.jobs.shift()!;
      const data = new Uint8Array(buffer, 0, job.bytes);
      if (failure !== undefined) job.reject(new BuilderError("BUILD_OUTPUT", `compression failed: ${failure}`));
      else if (short) job.resolve(inPlace(data, short, job.isUnfit));
      else job.resolve({ bytes: data.subarray(0, stored), compressed: stored < job.bytes });
      onIdle();
    });
    this.worker.on("error", (cause: Error) => {
      for (const job of this.jobs.splice(0))
        job.reject(new BuilderError("BUILD_OUTPUT", `a compression thread failed: ${cause.message}`, { cause }));
    });
  }

  run(job: Job): void {
    this.jobs.push(job);
    const { buffer } = job.data;
    this.worker.postMessage({ buffer, bytes: job.bytes, bound: Math.max(64, zstdBound(job.bytes)) }, [buffer]);
  }
}

function inPlace(data: Uint8Array, stored: Uint8Array, isUnfit: Job["isUnfit"]): Compressed {
  if (isUnfit?.(stored)) return { bytes: data, compressed: false };
  data.set(stored);
  return { bytes: data.subarray(0, stored.length), compressed: true };
}

/** Shared by all blobs that are built at the same time. Its threads start when there is enough to do. */
export class CompressPool implements AsyncDisposable {
  readonly #threadCount: number;
  readonly #threads: CompressThread[] = [];
  readonly #queue: Job[] = [];
  #bytes = 0;

  /** `threads`: at most so many; default: one a core */
  constructor({ threads = availableParallelism() }: { threads?: number } = {}) {
    this.#threadCount = Math.min(threads, compressThreadsMax);
  }

  /**
   * Compresses in place; what does not get smaller stays as it is. `data` must be the start of its buffer, which is taken away and comes back
   * as that of the result. `isUnfit`: asked about results below 64 bytes; the data stays as it is if it says yes.
   */
  async compress(data: Uint8Array<ArrayBuffer>, compressor: Compressor, isUnfit?: (stored: Uint8Array) => boolean): Promise<Compressed> {
    this.#bytes += data.length;
    if (compressor === "zstd" && this.#bytes >= threadStartBytes) {
      return await new Promise<Compressed>((resolve, reject) => {
        this.#queue.push({ data, bytes: data.length, isUnfit, resolve, reject });
        this.#dispatch();
      });
    }
    const { bytes, compressed } = await compressHere(data, compressor);
    return compressed ? inPlace(data, bytes, isUnfit) : { bytes: data, compressed };
  }

  #dispatch(): void {
    while (this.#queue.length > 0) {
      let thread = this.#threads.reduce<CompressThread | undefined>(
        (best, next) => (best && best.jobs.length <= next.jobs.length ? best : next),
        undefined,
      );
      if ((!thread || thread.jobs.length > 0) && this.#threads.length < this.#threadCount) {
        thread = new CompressThread(() => this.#dispatch());
        this.#threads.push(thread);
      }
      if (!thread || thread.jobs.length >= jobsPerThreadMax) return;
      thread.run(this.#queue.shift()!);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#threads.splice(0).map(({ worker }) => worker.terminate()));
  }
}
