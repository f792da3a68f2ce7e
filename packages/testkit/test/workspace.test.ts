import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { mountsUnder, processesOf, run, startProgram, until, Workspace } from "../src/index.ts";

const root = process.getuid?.() === 0;

test("disposal stops programs, newest first, and removes the folder", async () => {
  const workspace = new Workspace("testkit");
  const order: string[] = [];
  workspace.defer(() => void order.push("first"));
  const program = workspace.start({ command: "sleep", args: ["1000"], logFile: workspace.path("log") });
  workspace.defer(() => void order.push("second"));
  await workspace[Symbol.asyncDispose]();
  await workspace[Symbol.asyncDispose]();
  expect(order).toEqual(["second", "first"]);
  expect(program.running).toBe(false);
  expect(existsSync(workspace.directory)).toBe(false);
});

test("a failing undo does not keep the others from running, and is reported", async () => {
  const workspace = new Workspace("testkit");
  let reached = false;
  workspace.defer(() => {
    reached = true;
  });
  workspace.defer(() => {
    throw new Error("one that fails");
  });
  await expect(workspace[Symbol.asyncDispose]()).rejects.toThrow("one that fails");
  expect(reached).toBe(true);
  expect(existsSync(workspace.directory)).toBe(false);
});

test("a process that nobody stops is found by the folder in its command line and killed", async () => {
  const workspace = new Workspace("testkit");
  const script = workspace.path("stay.sh");
  writeFileSync(script, "trap '' TERM\nwhile true; do sleep 1; done\n");
  const stray = startProgram({ command: "sh", args: [script], logFile: workspace.path("log") });
  expect(processesOf(workspace.directory).map((one) => one.pid)).toContain(stray.pid);
  await workspace[Symbol.asyncDispose]();
  expect(await stray.exited).toBe(-1);
});

test.skipIf(!root)("mounts below the folder are undone, busy and stacked ones too", async () => {
  const workspace = new Workspace("testkit");
  const point = workspace.path("m");
  mkdirSync(point);
  await run("mount", ["-t", "tmpfs", "none", point]);
  mkdirSync(`${point}/inner`);
  await run("mount", ["-t", "tmpfs", "none", `${point}/inner`]);
  await run("mount", ["-t", "tmpfs", "none", point]);
  const reader = startProgram({ command: "sleep", args: ["1000"], logFile: workspace.path("log"), directory: point });
  expect(mountsUnder(workspace.directory)).toHaveLength(3);
  await workspace[Symbol.asyncDispose]();
  reader.kill("SIGKILL");
  expect(mountsUnder(workspace.directory)).toEqual([]);
  expect(existsSync(workspace.directory)).toBe(false);
});

test("until names what it waited for and keeps the last error as the cause", async () => {
  const failing = until("the moon", () => Promise.reject(new Error("too far")), 50);
  await expect(failing).rejects.toThrow("the moon");
  await failing.catch((error: Error) => expect(String(error.cause)).toContain("too far"));
});
