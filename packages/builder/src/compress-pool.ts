/**
 * Compression on all cores. zstd runs in worker threads with synchronous calls: `node:zlib`'s asynchronous form makes a context and four
 * thread-pool hops a call, which for 1 MiB chunks reached 47 MB/s against 150 MB/s a thread (2 cores, Node 26.10).
 * lz4's binding has its own threads and no such cost.
 */
import { availableParallelism } from "node:os";
import { Worker } from "node:worker_threads";
import { type Compressed, type Compressor, compressHere, zstdBound } from "./codecs.ts";
import { BuilderError } from "./errors.ts";
import { compressThreadsMax, jobsPerThreadMax, threadStartBytes } from "./limits.ts";

interface Job {
  data: Uint8Array<ArrayBuffer>;
  bytes: number;
  resolve(result: Compressed): void;
  reject(failure: unknown): void;
}

interface Reply {
  input: ArrayBuffer;
  output: ArrayBuffer | undefined;
  failure: string | undefined;
}

/**
 * The whole program of a worker thread. It is started from its own text, so that it also runs where everything is bundled into one file;
 * it must therefore use nothing from around it.
 */
function workerProgram(load: NodeJS.Require): void {
  const { parentPort } = load("node:worker_threads") as typeof import("node:worker_threads");
  const { zstdCompressSync } = load("node:zlib") as typeof import("node:zlib");
  parentPort!.on("message", ({ input, bytes, bound }: { input: ArrayBuffer; bytes: number; bound: number }) => {
    try {
      const stored = zstdCompressSync(new Uint8Array(input, 0, bytes), { chunkSize: bound });
      // A copy of the right size: the piece that zlib made is as large as the largest possible output.
      const output = stored.length < bytes ? new Uint8Array(stored).buffer : undefined;
      parentPort!.postMessage({ input, output, failure: undefined }, output ? [input, output] : [input]);
    } catch (failure) {
      parentPort!.postMessage({ input, output: undefined, failure: String(failure) }, [input]);
    }
  });
}

class CompressThread {
  readonly worker: Worker;
  readonly jobs: Job[] = [];

  constructor(onIdle: () => void) {
    this.worker = new Worker(`(${workerProgram.toString()})(require)`, { eval: true, execArgv: [] });
    this.worker.on("message", (reply: Reply) => {
      const job = this.jobs.shift()!;
      if (reply.failure !== undefined) job.reject(new BuilderError("BUILD_OUTPUT", `compression failed: ${reply.failure}`));
      else {
        const input = new Uint8Array(reply.input, 0, job.bytes);
        job.resolve({ bytes: reply.output ? new Uint8Array(reply.output) : input, compressed: reply.output !== undefined, input });
      }
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
    this.worker.postMessage({ input: buffer, bytes: job.bytes, bound: Math.max(64, zstdBound(job.bytes)) }, [buffer]);
  }
}

/** Shared by all blobs that are built at the same time. Its threads start when there is enough to do. */
export class CompressPool implements AsyncDisposable {
  readonly #threadCount = Math.min(availableParallelism(), compressThreadsMax);
  readonly #threads: CompressThread[] = [];
  readonly #queue: Job[] = [];
  #bytes = 0;

  /**
   * Compresses; what does not get smaller comes back as it is. `data` must be the start of its buffer, which is taken away and comes back
   * as `input` of the result.
   */
  async compress(data: Uint8Array<ArrayBuffer>, compressor: Compressor): Promise<Compressed> {
    this.#bytes += data.length;
    if (compressor !== "zstd" || this.#bytes < threadStartBytes) return await compressHere(data, compressor);
    return await new Promise<Compressed>((resolve, reject) => {
      this.#queue.push({ data, bytes: data.length, resolve, reject });
      this.#dispatch();
    });
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
