import { closeSync } from "node:fs";
import { MessageChannel, type MessagePort, Worker } from "node:worker_threads";
import { cloneDevice, WorkerTable } from "@nydus-ts/fuse";
import { eventfd, signalEventfd, threadProcessors } from "@nydus-ts/linux";
import { NydusdError } from "../../errors.ts";
import type { FuseWorkerData, NumberedOrder, Order, Report } from "./messages.ts";

/** Every worker is up, or has followed an order, within this time; a worker never waits for anything but the disk. */
const orderDeadlineMs = 10_000;
/** A worker ends within this time, or it is left to the end of the process (it hangs in a read of a dead disk). */
const endDeadlineMs = 1_200;

/** Heap bounds of a worker: its file system object holds kilobytes; buffers and maps are outside of the heap. */
const resourceLimits = { maxOldGenerationSizeMb: 64, maxYoungGenerationSizeMb: 4, stackSizeMb: 2 };

export interface WorkersOptions {
  readonly count: number;
  readonly workerUrl: URL;
  readonly device: number;
  /** Each worker reads its own clone of the device. A successor can then not have unanswered requests delivered again. */
  readonly clone: boolean;
  readonly trace: boolean;
  readonly onReport: (report: Report) => void;
  /** A worker ended without having been told to. */
  readonly onFailure: (error: unknown) => void;
}

interface WorkerHandle {
  readonly data: FuseWorkerData;
  /** Orders wait in it until the thread takes them. */
  readonly port: MessagePort;
  readonly wake: number;
  readonly clone: number | undefined;
  readonly exited: Promise<void>;
  readonly exit: () => void;
  /** Undefined until it is started. */
  thread: Worker | undefined;
  serves: boolean;
  hasExited: boolean;
}

/**
 * The worker threads of one session. Owns them, their wake-up descriptors and clones.
 *
 * The session serves as soon as one of them does. The others start then, beside it: all at once they would take the processors from each
 * other (4 threads on 2 processors: the first was ready after 200 ms instead of 100).
 */
export class Workers {
  readonly table: WorkerTable;
  readonly #options: WorkersOptions;
  readonly #handles: WorkerHandle[] = [];
  readonly #waiting = new Map<number, { readonly remaining: Set<number>; settle: (error: Error | undefined) => void }>();
  #number = 0;
  #stopping = false;
  readonly #up = Promise.withResolvers<void>();

  constructor(options: WorkersOptions) {
    this.#options = options;
    this.table = new WorkerTable(options.count);
    this.#up.promise.catch(() => undefined);
    const processors = threadProcessors();
    for (let index = 0; index < options.count; index++) this.#handles.push(this.#prepare(index, roleOf(index, options.count, processors)));
    this.#start(0);
  }

  /** Resolves when a worker serves. @throws NydusdError ENGINE */
  up(): Promise<void> {
    return withDeadline(this.#up.promise, orderDeadlineMs, "the FUSE workers did not start");
  }

  /**
   * Sends an order to all workers and waits until those have followed it that serve; one that is starting follows it before its first
   * request. Only what is detached must be forgotten by all, since its memory is unmapped then.
   * @throws NydusdError ENGINE
   */
  async order(order: Order): Promise<void> {
    const number = ++this.#number;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const all = order.kind === "detach" || !this.#handles.some(({ serves }) => serves);
    this.#waiting.set(number, {
      remaining: new Set(this.#handles.flatMap(({ serves, data }) => (all || serves ? [data.index] : []))),
      settle: (error) => (error === undefined ? resolve() : reject(error)),
    });
    this.#post({ number, order });
    try {
      await withDeadline(promise, orderDeadlineMs, `a FUSE worker did not follow ${order.kind}`);
    } finally {
      this.#waiting.delete(number);
    }
  }

  /** Ends all workers. false when one of them did not end in time: its descriptors must stay open. */
  async stop(): Promise<boolean> {
    this.#stopping = true;
    for (const handle of this.#handles) if (handle.thread === undefined) handle.exit();
    this.#post({ number: ++this.#number, order: { kind: "stop" } });
    const ended = await Promise.all(
      this.#handles.map((handle) =>
        withDeadline(handle.exited, endDeadlineMs, "").then(
          () => true,
          () => {
            void handle.thread?.terminate();
            handle.thread?.unref();
            return false;
          },
        ),
      ),
    );
    const failure = new NydusdError("ENGINE", "the FUSE session is being stopped");
    this.#up.reject(failure);
    for (const { settle } of this.#waiting.values()) settle(failure);
    this.#handles.forEach((handle, index) => {
      handle.port.close();
      if (ended[index] !== true) return;
      closeSync(handle.wake);
      if (handle.clone !== undefined) closeSync(handle.clone);
    });
    this.#handles.length = 0;
    return !ended.includes(false);
  }

  #post(order: NumberedOrder): void {
    this.#handles.forEach((handle, index) => {
      if (handle.hasExited) return;
      handle.port.postMessage(order);
      this.table.call(index);
      signalEventfd(handle.wake);
    });
  }

  #prepare(index: number, role: Role): WorkerHandle {
    const { port1, port2 } = new MessageChannel();
    const wake = eventfd();
    const clone = this.#options.clone ? cloneDevice(this.#options.device) : undefined;
    const data: FuseWorkerData = {
      kind: "nydusd-fuse",
      index,
      device: clone ?? this.#options.device,
      wake,
      table: this.table.buffer,
      port: port2,
      ...role,
      trace: this.#options.trace,
    };
    const { promise: exited, resolve } = Promise.withResolvers<void>();
    const handle: WorkerHandle = {
      data,
      port: port1,
      wake,
      clone,
      exited,
      exit: () => {
        handle.hasExited = true;
        resolve();
      },
      thread: undefined,
      serves: false,
      hasExited: false,
    };
    port1.on("message", (report: Report) => this.#receive(handle, report));
    return handle;
  }

  #start(index: number): void {
    const handle = this.#handles[index] as WorkerHandle;
    const { data } = handle;
    const thread = new Worker(this.#options.workerUrl, {
      workerData: data,
      transferList: [data.port],
      resourceLimits,
      name: `fuse-${index}`,
    });
    handle.thread = thread;
    let failure: unknown;
    thread.once("error", (error) => {
      failure = error;
    });
    thread.once("exit", (code) => {
      handle.exit();
      if (failure !== undefined || code !== 0)
        this.#failed(failure ?? new NydusdError("ENGINE", `FUSE worker ${index} ended with code ${code}`));
    });
  }

  #failed(error: unknown): void {
    if (this.#stopping) return;
    const failure = error instanceof NydusdError ? error : new NydusdError("ENGINE", "a FUSE worker failed", { cause: error });
    this.#up.reject(failure);
    for (const { settle } of this.#waiting.values()) settle(failure);
    this.#options.onFailure(failure);
  }

  #receive(handle: WorkerHandle, report: Report): void {
    if (report.kind === "ready") {
      handle.serves = true;
      this.#up.resolve();
      if (!this.#stopping) for (const { data, thread } of this.#handles) if (thread === undefined) this.#start(data.index);
    } else if (report.kind === "done") {
      const waiting = this.#waiting.get(report.number);
      if (report.error !== undefined) {
        const refusal = new NydusdError("ENGINE", `a FUSE worker refused an image: ${report.error}`);
        if (waiting?.remaining.has(handle.data.index)) waiting.settle(refusal);
        else this.#failed(refusal);
      } else if (waiting?.remaining.delete(handle.data.index) && waiting.remaining.size === 0) waiting.settle(undefined);
    } else this.#options.onReport(report);
  }
}

type Role = Pick<FuseWorkerData, "processor" | "standIn">;

/**
 * With a worker for each processor or more, each processor has one that stays there, and those beyond are stand-ins: a request then wakes no
 * other processor, and no more threads than needed (2 processors, 4 workers: tar of small files 1.7 times as fast). Fewer workers than
 * processors go where the kernel puts them.
 */
export function roleOf(index: number, count: number, processors: readonly number[]): Role {
  if (count < processors.length) return { processor: undefined, standIn: false };
  return { processor: processors[index], standIn: index >= processors.length };
}

function withDeadline<T>(promise: Promise<T>, deadlineMs: number, what: string): Promise<T> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => late.reject(new NydusdError("ENGINE", `${what} within ${deadlineMs / 1000} s`)), deadlineMs);
  return Promise.race([promise, late.promise]).finally(() => clearTimeout(timer));
}
