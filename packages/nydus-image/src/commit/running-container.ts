/** A running container, as containerd's own client tells of it. Source: spec/nydusify.md, section 9, steps 1, 2 and 7 */
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mountInfo } from "@nydus-ts/linux";
import { NydusImageError } from "../errors.ts";
import { ctrDeadlineMs, resumeAttemptsMax } from "../limits.ts";

export interface ContainerdAddress {
  /** of its socket */
  address: string;
  namespace: string;
}

export interface RunningContainer {
  id: string;
  /** reference with the digest that containerd knows it by, so that a tag that moved on means nothing */
  image: string;
  pid: number;
  isPaused: boolean;
  /** what the container wrote, in overlayfs' form */
  upperDirectory: string;
}

/** @param prefix  the id or the beginning of it. @throws NydusImageError IMAGE_ARGUMENT, IMAGE_SOURCE */
export async function findContainer(prefix: string, where: ContainerdAddress): Promise<RunningContainer> {
  const ids = (await ctr(where, ["containers", "ls", "-q"])).split("\n").filter((id) => id !== "" && id.startsWith(prefix));
  const [id] = ids.includes(prefix) ? [prefix] : ids;
  if (prefix === "" || id === undefined)
    throw new NydusImageError("IMAGE_ARGUMENT", `namespace ${where.namespace} of containerd has no container ${JSON.stringify(prefix)}`);
  if (id !== prefix && ids.length > 1)
    throw new NydusImageError(
      "IMAGE_ARGUMENT",
      `${ids.length} containers begin with ${JSON.stringify(prefix)}: ${ids.slice(0, 3).join(", ")}`,
    );
  const task = (await ctr(where, ["tasks", "ls"]))
    .split("\n")
    .map((line) => line.trim().split(/\s+/))
    .find(([name]) => name === id);
  const [, pid, status] = task ?? [];
  if (status !== "RUNNING" && status !== "PAUSED")
    throw new NydusImageError(
      "IMAGE_SOURCE",
      `container ${id} is not running, it is ${status?.toLowerCase() ?? "not started"}: start it first`,
    );
  const { Image: name } = JSON.parse(await ctr(where, ["containers", "info", id])) as { Image?: string };
  if (name === undefined || name === "") throw new NydusImageError("IMAGE_SOURCE", `container ${id} was made of no image`);
  return {
    id,
    image: await pinned(name, where),
    pid: Number(pid),
    isPaused: status === "PAUSED",
    upperDirectory: upperDirectory(id, Number(pid)),
  };
}

async function pinned(name: string, where: ContainerdAddress): Promise<string> {
  const row = (await ctr(where, ["images", "ls", `name==${name}`])).split("\n").find((line) => line.startsWith(`${name} `));
  const digest = /\s(sha256:[0-9a-f]{64})\s/.exec(row ?? "")?.[1];
  return digest === undefined || name.includes("@") ? name : `${name}@${digest}`;
}

function upperDirectory(id: string, pid: number): string {
  const root = mountInfo(pid).findLast(({ mountpoint }) => mountpoint === "/");
  const upper = root?.type === "overlay" ? root.superOptions.find((option) => option.startsWith("upperdir=")) : undefined;
  if (upper === undefined)
    throw new NydusImageError(
      "IMAGE_SOURCE",
      `the root of container ${id} is no overlay with an upper directory: there is nothing to commit`,
    );
  return upper.slice("upperdir=".length);
}

/**
 * Runs `task` while the container stands still. It goes on afterwards whatever happens, also when this process is killed or containerd is
 * away: a helper that waits for the end of a pipe resumes it, and tries again until it has.
 *
 * @throws NydusImageError IMAGE_SOURCE; what `task` throws
 */
export async function whilePaused<T>({ id, isPaused }: RunningContainer, where: ContainerdAddress, task: () => Promise<T>): Promise<T> {
  if (isPaused) return await task();
  const helper = spawn("sh", ["-c", resumeScript, id, "ctr", ...global(where)], {
    stdio: ["pipe", "ignore", "pipe"],
    // Ctrl-C at the terminal must not end it.
    detached: true,
  });
  const ended = once(helper, "exit") as Promise<[number | null]>;
  try {
    await ctr(where, ["tasks", "pause", id]);
  } catch (error) {
    // It may have come about all the same.
    await resume(helper, ended, id).catch(() => {});
    throw error;
  }
  let result: T;
  try {
    result = await task();
  } catch (error) {
    await resume(helper, ended, id).catch(() => {});
    throw error;
  }
  await resume(helper, ended, id);
  return result;
}

/** `$0` is the container, `$@` the client. A container that does not stand still any more, or is gone, needs no further attempt. */
const resumeScript = `
  read -r _
  attempts=0
  until "$@" tasks resume "$0"; do
    if tasks=$("$@" tasks ls); then
      printf '%s\n' "$tasks" | grep -q "^$0 .*PAUS" || exit 0
    fi
    attempts=$((attempts + 1))
    [ "$attempts" -lt ${resumeAttemptsMax} ] || exit 1
    sleep 1
  done`;

/** Lets the helper go. Beyond the deadline it goes on by itself. @throws NydusImageError IMAGE_SOURCE */
async function resume(helper: ChildProcess, ended: Promise<[number | null]>, id: string): Promise<void> {
  let words = "";
  helper.stderr!.on("data", (part: Buffer) => {
    words = (words + part.toString()).slice(-1000);
  });
  helper.stdin!.end();
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<"late">((resolve) => {
    timer = setTimeout(resolve, ctrDeadlineMs, "late");
  });
  const end = await Promise.race([ended, late]);
  clearTimeout(timer);
  if (end !== "late" && end[0] === 0) return;
  helper.unref();
  helper.stderr!.destroy();
  const why = words.trim().split("\n").at(-1) || `containerd did not answer within ${ctrDeadlineMs / 1000} s`;
  const next = end === "late" ? "it is tried further; or do it with" : "do it with";
  throw new NydusImageError("IMAGE_SOURCE", `container ${id} can not be resumed: ${why}; ${next}: ctr tasks resume ${id}`);
}

const global = ({ address, namespace }: ContainerdAddress) => ["--address", address, "--namespace", namespace];

async function ctr(where: ContainerdAddress, args: readonly string[]): Promise<string> {
  return await new Promise((done, refuse) => {
    const options = { maxBuffer: 64 * 1024 * 1024, timeout: ctrDeadlineMs };
    execFile("ctr", [...global(where), ...args], options, (error, stdout, stderr) => {
      if (!error) return done(stdout);
      const why =
        (error as NodeJS.ErrnoException).code === "ENOENT" ? "containerd's client ctr is not installed" : stderr.trim() || error.message;
      refuse(new NydusImageError("IMAGE_SOURCE", `containerd at ${where.address}: ${why.split("\n").at(-1)}`));
    });
  });
}
