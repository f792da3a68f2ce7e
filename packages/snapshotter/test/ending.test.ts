import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { mount, umount2 } from "@nydus-ts/linux";
import { expect, test } from "vitest";
import { daemonProcesses } from "../src/daemons/process.ts";
import { main } from "../src/main.ts";
import { LOCALFS_TEMPLATE, startStack } from "./support/stack.ts";
import { temporaryRoot, tinyNydusd, until } from "./support/world.ts";

/** How long a daemon that should not be there is waited for, in ms: a process that is being made has no other mark. */
const watchMs = 500;

/** A real process, so that it can be killed; what it started goes on. */
async function killedOnceServing(root: string, args: readonly string[]): Promise<void> {
  const bin = join(import.meta.dirname, "../src/bin.ts");
  const child = spawn(process.execPath, ["--conditions=@nydus-ts/source", bin, ...args], { stdio: ["ignore", "pipe", "ignore"] });
  let out = "";
  child.stdout.on("data", (data) => {
    out += String(data);
  });
  await until(() => out.includes("nydusd serves"), `the daemon ahead of need in ${root}`, 20_000);
  child.kill("SIGKILL");
  await once(child, "exit");
}

// What has to be repaired after a start, and then a daemon ahead of need, go on beside the first calls: the end may come before they do.
test("told to end while its start still repairs, the snapshotter leaves no daemon behind", { timeout: 60_000 }, async () => {
  await using root = temporaryRoot();
  const { command } = tinyNydusd(root.path);
  const template = join(root.path, "t.json");
  writeFileSync(template, JSON.stringify(LOCALFS_TEMPLATE));
  const places = ["--root", join(root.path, "root"), "--address", join(root.path, "s.sock")];
  const args = [...places, "--nydusd-config", template, "--nydusd", command, "--log-to-stdout"];
  await killedOnceServing(root.path, args);
  // The idle daemon of the one that was killed is to be stopped, which takes as long as it does not react.
  for (const { pid } of daemonProcesses(`${root.path}/`)) process.kill(pid, "SIGSTOP");
  const terminate = new AbortController();
  const lines: string[] = [];
  const write = (text: string): void => {
    lines.push(text);
    if (text.includes("is ready")) terminate.abort();
  };
  expect(await main(args, { env: {}, program: "", writeOut: write, writeErr: write, terminate: terminate.signal }), lines.join("")).toBe(0);
  const end = performance.now() + watchMs;
  while (performance.now() < end) {
    expect(daemonProcesses(`${root.path}/`)).toEqual([]);
    await pause(10);
  }
});

test("an idle daemon that can't be stopped is named in the log, and the snapshotter ends as asked", async () => {
  await using root = temporaryRoot();
  const { command } = tinyNydusd(root.path);
  await using stack = await startStack(root.path, { nydusd: command });
  await until(() => stack.log.some((line) => line.includes("nydusd serves")), "the daemon ahead of need");
  const [id] = /"?daemon"?[=:]\s*"?([\w-]+)/.exec(stack.log.find((line) => line.includes("nydusd serves")) as string)?.slice(1) ?? [];
  const logs = join(stack.root, "logs", id as string);
  expect(existsSync(logs), logs).toBe(true);
  // Stopping removes the daemon's folder of logs; one that is a mount point can't be removed.
  mount({ source: "none", target: logs, type: "tmpfs", flags: 0 });
  try {
    expect(await stack.stop(), stack.log.slice(-5).join("")).toBe(0);
    expect(stack.log.join("")).toContain("an idle daemon could not be stopped");
    expect(stack.log.join("")).toContain("nydus-snapshotter exited");
  } finally {
    umount2(logs, 0);
  }
});
