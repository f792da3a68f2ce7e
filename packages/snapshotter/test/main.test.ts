import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, readFileSync, statSync, watch, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { main } from "../src/main.ts";
import { LOCALFS_TEMPLATE, startStack } from "./support/stack.ts";
import { TestClient } from "../src/testing/index.ts";
import { temporaryRoot, until } from "./support/world.ts";

async function run(...argv: string[]): Promise<{ code: number; out: string; err: string }> {
  let out = "";
  let err = "";
  const io = {
    env: {},
    program: "",
    writeOut: (text: string) => {
      out += text;
    },
    writeErr: (text: string) => {
      err += text;
    },
    terminate: AbortSignal.abort(),
  };
  const code = await main(argv, io);
  return { code, out, err };
}

test("--version is four lines and reads nothing", async () => {
  const { code, out } = await run("--version", "--config", "/nonexistent");
  expect(code).toBe(0);
  expect(out.split("\n").map((line) => line.slice(0, 13))).toEqual([
    "Version:     ",
    "Revision:    ",
    "Runtime:     ",
    "Build time:  ",
    "",
  ]);
});

test.for([
  [["--nonsense"], 2, /--nonsense/],
  [["extra"], 2, /argument/],
  [["--log-to-stdout=perhaps"], 2, /true/],
  [["--config", "/nonexistent.toml"], 1, /\/nonexistent\.toml: cannot be read/],
  [["--daemon-mode", "lots", "--root", "/nonexistent/x"], 1, /--daemon-mode: expected one of/],
  [["-log-level", "loud"], 1, /--log-level: expected one of/],
  [["--root", `/${"x".repeat(80)}`], 1, /--root: .*70 bytes/],
] as const)("%j ends with %d and one clear line", async ([argv, expected, words]) => {
  const { code, err } = await run(...argv);
  expect(code).toBe(expected);
  expect(err).toMatch(words);
});

test("a template that is named and absent stops the start", async () => {
  await using root = temporaryRoot();
  const { code, err } = await run(
    "--root",
    join(root.path, "r"),
    "--address",
    join(root.path, "s.sock"),
    "--nydusd-config",
    "/nonexistent.json",
    "--log-to-stdout",
  );
  expect(code).toBe(1);
  expect(err).toMatch(/\/nonexistent\.json: /);
});

test("a second snapshotter on the same socket is refused, and the first goes on", async () => {
  await using root = temporaryRoot();
  await using stack = await startStack(root.path);
  await expect(startStack(root.path)).rejects.toThrow(/another process listens/);
  await stack.client.call("Prepare", { key: "a" });
});

test("processes, mounts and folders are looked through before there is a socket that somebody could dial", async () => {
  await using root = temporaryRoot();
  const sockets = join(root.path, "root/socket");
  mkdirSync(join(sockets, "stray"), { recursive: true });
  // One queue of the kernel for all watchers of a process: the order is that of the events.
  const seen: string[] = [];
  const note = (_: string, name: string | null) => {
    if (name === "s.sock" || name === "stray") seen.push(name);
  };
  const watchers = [watch(root.path, note), watch(sockets, note)];
  try {
    await using stack = await startStack(root.path);
    await until(async () => seen.includes("stray") && seen.includes("s.sock"), "both events");
    expect(seen[0]).toBe("stray");
    await stack.client.call("Prepare", { key: "a" });
  } finally {
    for (const watcher of watchers) watcher.close();
  }
});

test("a file that is no socket is not removed", async () => {
  await using root = temporaryRoot();
  writeFileSync(join(root.path, "s.sock"), "mine");
  await expect(startStack(root.path)).rejects.toThrow(/no socket/);
  expect(readFileSync(join(root.path, "s.sock"), "utf8")).toBe("mine");
});

test("a store that is no database stops the start and names the file", async () => {
  await using root = temporaryRoot();
  mkdirSync(join(root.path, "root"));
  writeFileSync(join(root.path, "root/metadata.sqlite"), "no database ".repeat(1_000));
  await expect(startStack(root.path)).rejects.toThrow(/metadata\.sqlite: cannot open the metadata store/);
});

test("the program starts over the socket file of one that was killed, ends on SIGTERM with 0, and logs into its file", async () => {
  await using root = temporaryRoot();
  const template = join(root.path, "t.json");
  writeFileSync(template, JSON.stringify(LOCALFS_TEMPLATE));
  const socket = join(root.path, "run/s.sock");
  const args = ["--conditions=@nydus-ts/source", "--disable-warning=ExperimentalWarning", join(import.meta.dirname, "../src/bin.ts")];
  const start = () =>
    spawn(process.execPath, [...args, "--root", join(root.path, "r"), "--address", socket, "--nydusd-config", template], {
      stdio: "ignore",
    });
  const answers = () => {
    const client = new TestClient(socket);
    return client
      .list()
      .then(
        () => true,
        () => false,
      )
      .finally(() => client.close());
  };
  const first = start();
  await until(answers, "the first to answer");
  first.kill("SIGKILL");
  await once(first, "exit");
  expect(existsSync(socket)).toBe(true);
  const second = start();
  await until(answers, "the second to answer");
  expect(statSync(socket).mode & 0o777).toBe(0o660);
  expect(statSync(join(root.path, "r")).mode & 0o777).toBe(0o700);
  second.kill("SIGTERM");
  expect(await once(second, "exit")).toEqual([0, null]);
  const log = readFileSync(join(root.path, "r/logs/nydus-snapshotter.log"), "utf8");
  expect(log).toMatch(/^time="\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z" level=info msg="nydus-snapshotter is ready" address=/m);
  expect(log).toMatch(/msg="nydus-snapshotter exited"$/m);
});
