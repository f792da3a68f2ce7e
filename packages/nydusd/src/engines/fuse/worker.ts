import { receiveMessageOnPort } from "node:worker_threads";
import { serve, WorkerTable } from "@nydus-ts/fuse";
import { setThreadProcessors } from "@nydus-ts/linux";
import { describeError } from "../../errors.ts";
import { ImageTreeFileSystem } from "./file-system.ts";
import type { FuseWorkerData, NumberedOrder, Order, Report } from "./messages.ts";

/** Faults a worker reports in one second; beyond it they are only counted by the reader's EIO. */
const faultsPerSecondMax = 20;

/**
 * The body of a FUSE worker thread: serves requests until the session ends or the engine says stop. It never returns to the thread's
 * event loop meanwhile; orders are taken from the port when the engine calls.
 */
export function runFuseWorker(data: FuseWorkerData): void {
  const { port, index } = data;
  const report = (message: Report): void => port.postMessage(message);
  const faults = new FaultLimit();
  const table = new WorkerTable(data.table);
  const fileSystem = new ImageTreeFileSystem({
    section: index,
    device: data.device,
    handOver: (miss) => report({ kind: "miss", miss }),
    slowRead: () => table.askForHelp(),
    readOn: (readOn) => report({ kind: "readOn", readOn }),
    interrupted: (uniqueLo, uniqueHi) => report({ kind: "interrupt", uniqueLo, uniqueHi }),
  });
  const takeOrders = (): boolean => {
    for (let received = receiveMessageOnPort(port); received !== undefined; received = receiveMessageOnPort(port)) {
      const { number, order } = received.message as NumberedOrder;
      if (order.kind === "stop") return false;
      report({ kind: "done", number, error: follow(fileSystem, order) });
    }
    return true;
  };
  if (data.processor !== undefined) stayOn(data.processor);
  if (takeOrders()) {
    report({ kind: "ready" });
    const how = serve({
      device: data.device,
      wake: data.wake,
      table,
      index,
      fileSystem,
      standIn: data.standIn,
      onCall: takeOrders,
      onInit: ({ minor, flags }) => report({ kind: "init", minor, flags }),
      onFault: (error, request) => {
        if (faults.allows()) report({ kind: "fault", text: `${request}: ${describeFault(error)}` });
      },
      trace: data.trace ? (line) => report({ kind: "trace", line }) : undefined,
    });
    report({ kind: "ended", how });
  } else report({ kind: "ended", how: "stopped" });
  port.close();
}

/** Only speed depends on it: a processor that went meanwhile is nobody's fault. */
function stayOn(processor: number): void {
  try {
    setThreadProcessors([processor]);
  } catch {
    // Any processor, then.
  }
}

function follow(fileSystem: ImageTreeFileSystem, order: Exclude<Order, { kind: "stop" }>): string | undefined {
  try {
    if (order.kind === "attach") fileSystem.attach(order.image, order.tree);
    else fileSystem.detach(order.index, order.tree);
    return undefined;
  } catch (error) {
    return describeError(error);
  }
}

/** Damage of an image is told by its message; a mistake of this program also by where it happened. */
const describeFault = (error: unknown): string =>
  error instanceof Error && !("code" in error) ? (error.stack ?? error.message) : describeError(error);

class FaultLimit {
  #second = 0;
  #count = 0;

  allows(): boolean {
    const second = Math.floor(performance.now() / 1000);
    if (second !== this.#second) {
      this.#second = second;
      this.#count = 0;
    }
    return ++this.#count <= faultsPerSecondMax;
  }
}
