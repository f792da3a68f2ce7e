import { execFile } from "node:child_process";
import { closeSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { Worker } from "node:worker_threads";
import { eventfd } from "@nydus-ts/linux";
import { expect, test } from "vitest";
import { mountFuse, unmountFuse, WorkerTable } from "../src/index.ts";

const source = JSON.stringify(join(import.meta.dirname, "../src/index.ts"));
const canMount = process.getuid?.() === 0 && existsSync("/dev/fuse");
if (!canMount) console.log("skipped: mounting needs root and /dev/fuse");

test.skipIf(!canMount)("the file system of the README is served by a worker as it stands", async () => {
  const directory = mkdtempSync(join(tmpdir(), "fuse-readme-"));
  const example = /```ts\n(.*?)```/s.exec(readFileSync(join(import.meta.dirname, "../README.md"), "utf8"))![1]!;
  writeFileSync(join(directory, "example.mts"), example.replace('"@nydus-ts/fuse"', source));
  writeFileSync(
    join(directory, "worker.mts"),
    `import { parentPort, workerData } from "node:worker_threads";
     import { serve, WorkerTable } from ${source};
     import { empty } from "./example.mts";
     const { device, wake, table } = workerData;
     const end = serve({
       device, wake, table: new WorkerTable(table), index: 0, fileSystem: empty, standIn: false,
       onCall: () => true, onInit: () => parentPort.postMessage("served"), onFault: (error) => parentPort.postMessage(String(error)),
     });
     parentPort.postMessage(end);`,
  );
  mkdirSync(join(directory, "mnt"));
  const mounted = mountFuse({ mountpoint: join(directory, "mnt"), source: "readme", readOnly: true });
  const wake = eventfd();
  try {
    const table = new WorkerTable(1).buffer;
    const worker = new Worker(join(directory, "worker.mts"), {
      workerData: { device: mounted.device, wake, table },
      execArgv: ["--conditions=@nydus-ts/source"],
    });
    const words: string[] = [];
    const served = new Promise((resolve, refuse) => {
      worker.on("message", (message: string) => {
        words.push(message);
        resolve(undefined);
      });
      worker.on("error", refuse);
    });
    const ended = new Promise((resolve) => worker.on("exit", resolve));
    await served;
    // In another process: this one must not wait for itself.
    const { stdout } = await promisify(execFile)("sh", [
      "-c",
      'ls -A "$0"; stat -c %f "$0"; ls "$0/nothing" 2>/dev/null || echo absent',
      mounted.mountpoint,
    ]);
    expect(stdout).toBe("41ed\nabsent\n");
    unmountFuse(mounted.mountpoint, mounted.connectionId);
    await ended;
    expect(words).toEqual(["served", "unmounted"]);
  } finally {
    await promisify(execFile)("umount", ["-l", mounted.mountpoint]).catch(() => undefined);
    closeSync(mounted.device);
    closeSync(wake);
    rmSync(directory, { recursive: true });
  }
});
