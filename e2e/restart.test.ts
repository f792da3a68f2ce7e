import { Worker } from "node:worker_threads";
import { startSnapshotter, Workspace } from "@nydus-ts/testkit";
import { expect, test } from "vitest";

/**
 * Dials without a pause, as containerd does every 10 ms, and counts what came of it until it is told to end: "served" when the
 * server's first bytes came, "closed" when the connection ended before them, else the error's code.
 */
const dialler = `
  const { parentPort, workerData } = require("node:worker_threads");
  const { connect } = require("node:net");
  const preface = Buffer.concat([Buffer.from("PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n"), Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0])]);
  const counts = {};
  let ended = false;
  parentPort.on("message", () => { ended = true; });
  const dial = () => new Promise((resolve) => {
    const socket = connect(workerData, () => socket.write(preface));
    socket.once("data", () => { socket.destroy(); resolve("served"); });
    socket.once("error", (error) => resolve(error.code));
    socket.once("close", () => resolve("closed"));
  });
  (async () => {
    while (!ended) { const outcome = await dial(); counts[outcome] = (counts[outcome] ?? 0) + 1; }
    parentPort.postMessage(counts);
    parentPort.close();
  })();
`;

test("an orderly restart refuses or drops no dial: the socket is served or not there, so containerd waits instead of failing calls", async () => {
  const workspace = new Workspace("nydus-e2e");
  try {
    const snapshotter = await startSnapshotter(workspace);
    const worker = new Worker(dialler, { eval: true, workerData: snapshotter.socket });
    const counts = new Promise<Record<string, number>>((resolve, reject) => worker.once("message", resolve).once("error", reject));
    try {
      for (let round = 0; round < 20; round++) await snapshotter.restart("SIGTERM");
    } finally {
      worker.postMessage("end");
    }
    const { served = 0, ENOENT = 0, ...failed } = await counts;
    // Both states were seen, so the restarts were really watched.
    expect(served).toBeGreaterThanOrEqual(20);
    expect(ENOENT).toBeGreaterThanOrEqual(20);
    expect(failed).toEqual({});
  } finally {
    await workspace[Symbol.asyncDispose]();
  }
});
