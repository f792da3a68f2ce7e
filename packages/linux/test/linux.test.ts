import { spawn } from "node:child_process";
import { closeSync, lstatSync, mkdirSync, mkdtempSync, openSync, readFileSync, readSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Worker } from "node:worker_threads";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  type ErrnoError,
  eventfd,
  findMount,
  lgetxattr,
  llistxattr,
  lsetxattr,
  MNT_DETACH,
  mapFile,
  mknod,
  mount,
  mountInfo,
  POLLIN,
  parseMountInfo,
  pidfdExited,
  pidfdOpen,
  pidfdSignal,
  poll,
  RENAME_NOREPLACE,
  recvWithFds,
  renameat2,
  rlimitNofile,
  sendWithFds,
  setRlimitNofile,
  setThreadProcessors,
  signalEventfd,
  statfs,
  threadProcessors,
  umount2,
  unixConnect,
  unixListen,
  utimensat,
  waitReady,
} from "../src/index.ts";

let directory: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "linux-test-"));
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const codeOf = (action: () => unknown): string | undefined => {
  try {
    action();
    return undefined;
  } catch (error) {
    return (error as ErrnoError).code;
  }
};

describe("mounts", () => {
  test("a tmpfs is mounted, found in mountinfo under a name with a space, and removed", () => {
    const target = join(directory, "a mount");
    mkdirSync(target);
    mount({ source: "test", target, type: "tmpfs", flags: 0, options: "size=64k" });
    try {
      expect(findMount(target)).toMatchObject({ type: "tmpfs", source: "test" });
    } finally {
      umount2(target, MNT_DETACH);
    }
    expect(findMount(target)).toBeUndefined();
  });

  test("a refused mount is an error with the errno's name", () => {
    expect(codeOf(() => mount({ source: "x", target: join(directory, "absent"), type: "tmpfs", flags: 0 }))).toBe("ENOENT");
    expect(codeOf(() => umount2(directory, 0))).toBe("EINVAL");
  });

  test("mountinfo lines keep propagation, escapes and super options apart", () => {
    const line = "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 shared:7 - ext3 /dev/root rw,errors=continue\nnot a line\n";
    expect(parseMountInfo(line)).toEqual([
      {
        mountId: 36,
        parentId: 35,
        major: 98,
        minor: 0,
        root: "/mnt1",
        mountpoint: "/mnt 2",
        options: ["rw", "noatime"],
        propagation: ["master:1", "shared:7"],
        type: "ext3",
        source: "/dev/root",
        superOptions: ["rw", "errors=continue"],
      },
    ]);
    expect(mountInfo().some((entry) => entry.mountpoint === "/proc")).toBe(true);
  });
});

describe("memory", () => {
  test("a mapped file is seen by another thread at the same address", async () => {
    const file = join(directory, "map");
    writeFileSync(file, "mapped bytes");
    const fd = openSync(file, "r");
    const map = mapFile(fd, 12);
    closeSync(fd);
    expect(Buffer.from(map.bytes).toString()).toBe("mapped bytes");
    const url = new URL("../src/index.ts", import.meta.url).href;
    const worker = new Worker(
      `const { parentPort, workerData } = require("node:worker_threads");
       import(${JSON.stringify(url)}).then((linux) => parentPort.postMessage(Buffer.from(linux.viewMemory(workerData.address, 12)).toString()));`,
      { eval: true, workerData: { address: map.address }, execArgv: ["--conditions=@nydus-ts/source"] },
    );
    try {
      expect(await new Promise((resolve, reject) => worker.once("message", resolve).once("error", reject))).toBe("mapped bytes");
    } finally {
      await worker.terminate();
      map.unmap();
      map.unmap();
    }
  });
});

describe("descriptors over sockets", () => {
  test("a megabyte and two descriptors arrive, and the descriptors work", async () => {
    const file = join(directory, "sent");
    writeFileSync(file, "content");
    const received = Promise.withResolvers<{ data: Buffer; fds: number[] }>();
    await using listener = await unixListen(join(directory, "s"), (fd) => {
      recvWithFds(fd, { bytesMax: 1 << 21, deadlineMs: 5000 })
        .then(received.resolve, received.reject)
        .finally(() => closeSync(fd));
    });
    const fd = await unixConnect(listener.path, { deadlineMs: 5000 });
    const sent = openSync(file, "r");
    const data = Buffer.alloc(1 << 20, 7);
    await sendWithFds(fd, { data, fds: [sent, sent] }, { deadlineMs: 5000 });
    closeSync(fd);
    closeSync(sent);
    const result = await received.promise;
    expect(result.data.equals(data)).toBe(true);
    expect(result.fds.length).toBe(2);
    const content = Buffer.alloc(7);
    readSync(result.fds[1] as number, content, 0, 7, 0);
    expect(content.toString()).toBe("content");
    for (const received of result.fds) closeSync(received);
  });

  test("a peer that stays silent ends the wait with ETIMEDOUT, one that sends too much with EMSGSIZE", async () => {
    const outcomes: Promise<unknown>[] = [];
    await using listener = await unixListen(join(directory, "t"), (fd) => {
      const outcome = recvWithFds(fd, { bytesMax: 10, deadlineMs: 50 }).catch((error: ErrnoError) => error.code);
      outcomes.push(outcome.finally(() => closeSync(fd)));
    });
    const silent = await unixConnect(listener.path, { deadlineMs: 5000 });
    const loud = await unixConnect(listener.path, { deadlineMs: 5000 });
    await sendWithFds(loud, { data: Buffer.alloc(11), fds: [] }, { deadlineMs: 5000 });
    while (outcomes.length < 2) await new Promise((resolve) => setTimeout(resolve, 5));
    expect(await Promise.all(outcomes)).toEqual(["ETIMEDOUT", "EMSGSIZE"]);
    closeSync(silent);
    closeSync(loud);
  });

  test("nobody listening is ECONNREFUSED or ENOENT, a path too long ENAMETOOLONG", async () => {
    await expect(unixConnect(join(directory, "nobody"), { deadlineMs: 100 })).rejects.toMatchObject({ code: "ENOENT" });
    await expect(unixConnect(`/${"x".repeat(200)}`, { deadlineMs: 100 })).rejects.toMatchObject({ code: "ENAMETOOLONG" });
  });
});

describe("processes", () => {
  test("the end of a process is seen through its pidfd, and a signal reaches it", async () => {
    const child = spawn("sleep", ["60"]);
    const pidfd = pidfdOpen(child.pid as number);
    try {
      await expect(pidfdExited(pidfd, { deadlineMs: 20 })).rejects.toMatchObject({ code: "ETIMEDOUT" });
      pidfdSignal(pidfd, "SIGKILL");
      await pidfdExited(pidfd, { deadlineMs: 5000 });
    } finally {
      closeSync(pidfd);
      child.kill("SIGKILL");
    }
  });

  test("the bound of open files is never lowered", () => {
    const before = rlimitNofile();
    expect(setRlimitNofile(16)).toBe(before.soft);
    expect(setRlimitNofile(before.hard)).toBeGreaterThanOrEqual(before.soft);
  });
});

describe("processors of a thread", () => {
  test("are those it was told to stay on; none that exists is refused", () => {
    const before = threadProcessors();
    try {
      setThreadProcessors(before.slice(-1));
      expect(threadProcessors()).toEqual(before.slice(-1));
      expect(readFileSync("/proc/thread-self/status", "latin1")).toMatch(new RegExp(`^Cpus_allowed_list:\\t${before.at(-1)}$`, "m"));
      expect(codeOf(() => setThreadProcessors([]))).toBe("EINVAL");
    } finally {
      setThreadProcessors(before);
    }
    expect(threadProcessors()).toEqual(before);
  });
});

describe("waiting", () => {
  test("an eventfd is quiet until it is signalled, for poll and for the event loop", async () => {
    const fd = eventfd();
    try {
      expect(poll([{ fd, events: POLLIN }], 0)).toEqual([0]);
      await expect(waitReady(fd, "readable", { deadlineMs: 10 })).rejects.toMatchObject({ code: "ETIMEDOUT" });
      await expect(waitReady(fd, "readable", { deadlineMs: 1000, signal: AbortSignal.abort() })).rejects.toMatchObject({
        name: "AbortError",
      });
      signalEventfd(fd);
      await waitReady(fd, "readable", { deadlineMs: 1000 });
      expect(poll([{ fd, events: POLLIN }], 0)).toEqual([POLLIN]);
    } finally {
      closeSync(fd);
    }
  });
});

describe("files", () => {
  test("device numbers, times before 1970 to the nanosecond and extended attributes come back as set", () => {
    const device = join(directory, "device");
    mknod(device, 0o020600, { major: 4095, minor: 70_000 });
    utimensat(device, { access: { seconds: 1, nanoseconds: 2 }, modification: { seconds: -5, nanoseconds: 123_456_789 } });
    const stat = lstatSync(device, { bigint: true });
    expect(stat.mtimeNs).toBe(-5_000_000_000n + 123_456_789n);
    const rdev = Number(stat.rdev);
    expect(((rdev >> 8) & 0xfff) | 0).toBe(4095);
    lsetxattr(device, "trusted.test", Buffer.from([0, 255]));
    expect(llistxattr(device).map(String)).toContain("trusted.test");
    expect(lgetxattr(device, "trusted.test")).toEqual(Buffer.from([0, 255]));
    expect(lgetxattr(device, "trusted.absent")).toBeUndefined();
    // 1.6 KB of names, more than are asked for at first.
    const long = Array.from({ length: 8 }, (_, i) => `trusted.${String(i).repeat(200)}`);
    for (const name of long) lsetxattr(device, name, Buffer.of(1));
    expect(llistxattr(device).map(String)).toEqual(expect.arrayContaining(["trusted.test", ...long]));
  });

  test("a rename that must not replace says EEXIST", () => {
    writeFileSync(join(directory, "one"), "");
    writeFileSync(join(directory, "two"), "");
    expect(codeOf(() => renameat2(join(directory, "one"), join(directory, "two"), RENAME_NOREPLACE))).toBe("EEXIST");
  });

  test("statfs shows the capacity of the file system below a path", () => {
    const stats = statfs(directory);
    expect(stats.blockSize).toBeGreaterThan(0);
    expect(stats.blocks).toBeGreaterThan(stats.blocksAvailable);
  });
});
