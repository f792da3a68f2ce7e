/**
 * Reads gzip layers in worker threads, so that several are indexed at the same time and the main thread only hands bytes over and puts the
 * tree together. A thread runs the code that the main thread would, so the bytes are the same.
 *
 * Invariants: a thread reads one layer at a time and rests afterwards, until the next; one whose layer failed or was given up is ended. It
 * holds at most `threadPiecesMax` pieces of its layer, and says which members it found before it gives one back.
 */
import { availableParallelism } from "node:os";
import { extname } from "node:path";
import type { Worker } from "node:worker_threads";
import { BuilderError, type BuilderErrorCode } from "../errors.ts";
import { startThread } from "../start-thread.ts";
import type { FoundMember, FromThread, ToThread } from "./index-messages.ts";
import { indexThreadStartBytes, threadPieceBytes, threadPiecesMax } from "./limits.ts";
import type { FoundLayer } from "./ref-writer.ts";

/** The threads' file lies beside this one, as source or as library; the bundle has it beside itself. */
const threadFile = new URL(`./index-worker${extname(import.meta.url)}`, import.meta.url);

/** Takes what is found, in the order of the layer. What they throw ends the reading. */
export interface FoundSink {
  members(members: readonly FoundMember[]): void;
  dictionary(dictionary: Uint8Array): void;
}

interface IndexThread {
  worker: Worker;
  /** that no layer's bytes are in */
  buffers: SharedArrayBuffer[];
}

/** Shared by all layers that are built at the same time: as many threads as layers, at most one a core. */
export class IndexThreads implements AsyncDisposable {
  readonly #idle: IndexThread[] = [];
  readonly #running = new Set<Worker>();
  readonly #file: URL;
  #bytesSeen = 0;

  /** `file`: what a thread runs, for tests of threads that die */
  constructor({ file = threadFile }: { file?: URL } = {}) {
    this.#file = file;
  }

  /**
   * True if a layer that has at least `bytes` bytes shall be read by a thread: not if all so far were so small that starting one takes longer,
   * nor if as many as there are cores are at work.
   */
  takes(bytes: number): boolean {
    this.#bytesSeen += bytes;
    if (this.#running.size - this.#idle.length >= availableParallelism()) return false;
    return this.#bytesSeen >= indexThreadStartBytes;
  }

  /**
   * Reads a layer to its end, and closes `source` in any case.
   * @throws BuilderError as GzipReader, readTar and ContextCutter; BUILD_OUTPUT: the thread died; what `source` or `sink` throws
   */
  async read(source: AsyncIterable<Uint8Array>, chunkSize: number, sink: FoundSink): Promise<FoundLayer> {
    const thread = this.#idle.pop() ?? this.#start();
    const reading = new Reading(thread, sink);
    try {
      const layer = await reading.run(source, chunkSize);
      this.#idle.push(thread);
      return layer;
    } catch (failure) {
      this.#running.delete(thread.worker);
      await thread.worker.terminate();
      throw failure;
    } finally {
      reading.stopListening();
    }
  }

  #start(): IndexThread {
    const worker = startThread(this.#file);
    const buffers = Array.from({ length: threadPiecesMax }, () => new SharedArrayBuffer(threadPieceBytes));
    const thread: IndexThread = { worker, buffers };
    worker.on("error", () => {}); // whoever waits for it is told
    // One that dies while it rests must not be given a layer: nobody would ever hear of it.
    worker.on("exit", () => {
      this.#running.delete(worker);
      const at = this.#idle.indexOf(thread);
      if (at >= 0) this.#idle.splice(at, 1);
    });
    this.#running.add(worker);
    return thread;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#idle.length = 0;
    const all = [...this.#running];
    this.#running.clear();
    await Promise.all(all.map((worker) => worker.terminate()));
  }
}

/** One layer in a thread. */
class Reading {
  readonly #thread: IndexThread;
  readonly #sink: FoundSink;
  #failure: unknown;
  #layer: FoundLayer | undefined;
  #wake: () => void = () => {};

  constructor(thread: IndexThread, sink: FoundSink) {
    this.#thread = thread;
    this.#sink = sink;
    thread.worker.on("message", this.#take).on("error", this.#fail).on("exit", this.#exited);
  }

  stopListening(): void {
    this.#thread.worker.off("message", this.#take).off("error", this.#fail).off("exit", this.#exited);
  }

  async run(source: AsyncIterable<Uint8Array>, chunkSize: number): Promise<FoundLayer> {
    this.#post({ kind: "layer", chunkSize });
    let buffer: SharedArrayBuffer | undefined;
    let filled = 0;
    for await (const piece of source) {
      for (let at = 0; at < piece.length; ) {
        if (buffer === undefined) {
          buffer = await this.#freeBuffer();
          filled = 0;
        }
        const bytes = Math.min(piece.length - at, buffer.byteLength - filled);
        new Uint8Array(buffer, filled, bytes).set(piece.subarray(at, at + bytes));
        at += bytes;
        filled += bytes;
        if (filled < buffer.byteLength) continue;
        this.#post({ kind: "piece", buffer, bytes: filled });
        buffer = undefined;
      }
      if (this.#failure !== undefined) throw this.#failure;
    }
    if (buffer) this.#post({ kind: "piece", buffer, bytes: filled });
    this.#post({ kind: "end" });
    while (!this.#layer) await this.#change();
    return this.#layer;
  }

  #post(message: ToThread): void {
    this.#thread.worker.postMessage(message);
  }

  async #freeBuffer(): Promise<SharedArrayBuffer> {
    while (this.#thread.buffers.length === 0) await this.#change();
    return this.#thread.buffers.pop()!;
  }

  async #change(): Promise<void> {
    if (this.#failure === undefined) await new Promise<void>((resolve) => (this.#wake = resolve));
    if (this.#failure !== undefined) throw this.#failure;
  }

  readonly #take = (message: FromThread): void => {
    if (this.#failure !== undefined) return;
    try {
      if (message.kind === "members") {
        for (const dictionary of message.dictionaries) this.#sink.dictionary(dictionary);
        this.#sink.members(message.members);
      } else if (message.kind === "used") {
        this.#thread.buffers.push(message.buffer);
      } else if (message.kind === "end") {
        this.#layer = { ...message, sourceDigest: Buffer.from(message.sourceDigest) };
      } else {
        const { code, message: text } = message;
        throw code === undefined ? threadFailed(text) : new BuilderError(code as BuilderErrorCode, text);
      }
    } catch (failure) {
      this.#failure = failure;
    }
    this.#wake();
  };

  readonly #fail = (cause: Error): void => {
    this.#failure ??= threadFailed(cause.message, cause);
    this.#wake();
  };

  readonly #exited = (): void => {
    if (!this.#layer) this.#failure ??= threadFailed("it ended");
    this.#wake();
  };
}

function threadFailed(why: string, cause?: unknown): BuilderError {
  return new BuilderError("BUILD_OUTPUT", `a thread that reads a layer failed: ${why}`, { cause });
}
