/** `nydusify commit` of containers that containerd runs: the new image holds what the container sees, and the container goes on. */
import { spawn } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { ownBinaries, run, until } from "@nydus-ts/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { convert, pushApp, type Stack, startPod, startStack } from "./lib/stack.ts";

const shell = (script: string): string[] => ["/bin/busybox", "sh", "-c", script];
/** Every path of the root with what can be said about it, and a digest of every file; what the runtime itself puts there is left out. */
const describeTree =
  'cd /; for a in proc sys dev etc/hosts etc/hostname etc/resolv.conf; do p="$p -path ./$a -prune -o"; done; ' +
  "busybox find . -xdev $p -exec busybox stat -c '%N %f %u %g %t:%T' {} +  | sort; busybox find . -xdev $p -type f -exec sha256sum {} + | sort; " +
  "busybox find . -xdev $p ! -type d -exec busybox stat -c '%n %s %Y %h' {} + | sort";

const changes = [
  "echo new > /data/new; echo more >> /data/small/3; rm /data/small/4 /data/big",
  "rm -r /data/dir; mkdir /data/dir; echo other > /data/dir/only",
  "ln -s ../data/new /data/link; ln /data/new /data/hard; mkfifo /data/pipe; chmod 600 /data/small/5; chown 7:8 /data/small/6",
  "mkdir -p /a/b/c; echo deep > '/a/b/c/with space'; mkdir /skipped; echo no > /skipped/file; mv /data/small /data/moved",
]
  .join("; ")
  .replaceAll(/\b(rm|mkdir|ln|mkfifo|chmod|chown|mv) /g, "busybox $1 ");

describe("a container of an image", () => {
  let stack: Stack;
  const files: Record<string, Uint8Array> = {
    "data/big": Buffer.alloc(3_000_000, "big "),
    "data/dir/a": Buffer.from("a"),
    "data/dir/b": Buffer.from("b"),
  };
  for (let i = 0; i < 8; i++) files[`data/small/${i}`] = Buffer.from(`${i} `.repeat(1000 * i + 1));

  beforeAll(async () => {
    stack = await startStack();
  });
  afterAll(() => stack?.[Symbol.asyncDispose]());

  const commit = (containerId: string, target: string, ...more: string[]) => {
    const where = ["--containerd-address", stack.containerd.socket, "--namespace", "k8s.io"];
    const argv = [
      "commit",
      "--container",
      containerId,
      "--target",
      target,
      "--work-dir",
      stack.workspace.path("commit-work"),
      ...where,
      ...more,
    ];
    return run(join(ownBinaries, "nydusify"), argv, { check: false });
  };
  const exec = async (containerId: string, script: string): Promise<string> => {
    const { stdout, stderr, exitCode } = await stack.containerd.cri.execSync(containerId, shell(script), 60);
    expect([exitCode, stderr]).toEqual([0, ""]);
    return stdout;
  };
  const layersOf = async (reference: string): Promise<{ digest: string; annotations?: Record<string, string> }[]> => {
    const [, host = "", repository = "", tag = ""] = /^([^/]+)\/(.+):([^:/]+)$/.exec(reference) ?? [];
    const answer = await fetch(`http://${host}/v2/${repository}/manifests/${tag}`, {
      headers: { accept: "application/vnd.oci.image.manifest.v1+json" },
    });
    return ((await answer.json()) as { layers: { digest: string; annotations?: Record<string, string> }[] }).layers;
  };

  test.each([[[]], [["--fs-version", "5"]], [["--oci-ref"]]])(
    "converted with %j is committed, started again, and committed again",
    async (options) => {
      const name = `app${options.join("").replaceAll("-", "")}`;
      const image = await convert(await pushApp(stack, name, files), options);
      const pod = await startPod(stack, image, { name });
      await exec(pod.containerId, changes);
      const target = `${stack.registry.host}/committed/${name}:1`;
      const { code, stdout, stderr } = await commit(pod.containerId.slice(0, 20), target, "--with-path", "!/skipped");
      expect([code, stderr, stdout]).toEqual([0, expect.stringContaining("1 layers"), expect.stringMatching(/^sha256:[0-9a-f]{64}\n$/)]);
      const layers = await layersOf(target);
      expect(layers.at(-1)!.annotations!["containerd.io/snapshot/nydus-commit-blobs"]).toBe(layers.at(-2)!.digest);

      const again = await startPod(stack, target, { name: `${name}-again` });
      const expected = await exec(pod.containerId, `busybox rm -r /skipped; ${describeTree}`);
      expect(expected).toContain("with space");
      expect(await exec(again.containerId, describeTree)).toEqual(expected);

      await exec(again.containerId, "echo second > /data/second; busybox rm /data/moved/1");
      expect((await commit(again.containerId, `${target}-second`, "--maximum-times", "1")).stderr).toMatch(
        /level=fatal msg="reached maximum/,
      );
      expect((await commit(again.containerId, `${target}-second`)).code).toBe(0);
      const commits = (await layersOf(`${target}-second`)).at(-1)!.annotations!["containerd.io/snapshot/nydus-commit-blobs"]!.split(",");
      expect([commits.length, commits[0]]).toEqual([2, layers.at(-2)!.digest]);
      const third = await startPod(stack, `${target}-second`, { name: `${name}-third` });
      expect(await exec(third.containerId, describeTree)).toEqual(await exec(again.containerId, describeTree));

      if (options.length === 0) {
        const back = `${target}-back`;
        await run(join(ownBinaries, "nydusify"), ["convert", "--reverse", "--source", `${target}-second`, "--target", back]);
        const check = await run(join(ownBinaries, "nydusify"), ["check", "--source", back, "--target", `${target}-second`]);
        expect(check.stderr).toContain("verified image");
      }
      for (const each of [pod, again, third]) await each.remove();
    },
  );

  test("a path that something is mounted on comes along as a layer of its own, and replaces what the image has there", async () => {
    const image = await convert(await pushApp(stack, "mounted", files));
    const volume = stack.workspace.path("volume");
    mkdirSync(join(volume, "sub"), { recursive: true });
    writeFileSync(join(volume, "sub/file"), "of the volume");
    const pod = await startPod(stack, image, { name: "mounted", mounts: { "/data/dir": volume } });
    await exec(pod.containerId, "echo beside > /data/beside; busybox ln -s /data/dir /way");
    const target = `${stack.registry.host}/committed/mounted:1`;
    expect((await commit(pod.containerId, target, "--with-path", "/way")).stderr).toMatch(/level=fatal msg="--with-path .* is a link/);
    expect((await commit(pod.containerId, target, "--with-path", "/nowhere")).stderr).toMatch(
      /level=fatal msg="--with-path .* is not there/,
    );
    const { code, stderr } = await commit(pod.containerId, target, "--with-path", "/data/dir");
    expect([code, stderr]).toEqual([0, expect.stringContaining("2 layers")]);
    const again = await startPod(stack, target, { name: "mounted-again" });
    expect(await exec(again.containerId, "cd /data/dir; busybox find . | sort; cat sub/file ../beside")).toBe(
      ".\n./sub\n./sub/file\nof the volumebeside\n",
    );
    for (const each of [pod, again]) await each.remove();
  });

  const status = async (containerId: string): Promise<string> => {
    const { stdout } = await stack.containerd.ctr(["tasks", "ls"], { namespace: "k8s.io" });
    return stdout.split("\n").find((line) => line.startsWith(containerId)) ?? "";
  };
  /** A container with enough in its upper directory that it stands still for a while when it is committed. */
  const startFull = async (name: string) => {
    const pod = await startPod(stack, await convert(await pushApp(stack, name, files)), { name });
    await exec(pod.containerId, "dd if=/dev/urandom of=/data/random bs=1000000 count=60 2>/dev/null");
    return pod;
  };
  const paused = (containerId: string) =>
    until("the container to stand still", async () => (await status(containerId)).includes("PAUSED") || undefined);
  const goesOn = (containerId: string) =>
    until("the container to go on", async () => (await status(containerId)).includes("RUNNING") || undefined);

  test("a commit that is killed leaves no tag, and the container goes on; the same command then succeeds", async () => {
    const pod = await startFull("killed");
    const target = `${stack.registry.host}/committed/killed:1`;
    for (const delayMs of [0, 60, 150]) {
      const where = [
        "--containerd-address",
        stack.containerd.socket,
        "--namespace",
        "k8s.io",
        "--work-dir",
        stack.workspace.path("killed-work"),
      ];
      const child = spawn(join(ownBinaries, "nydusify"), ["commit", "--container", pod.containerId, "--target", target, ...where], {
        stdio: "ignore",
      });
      const ended = new Promise((resolve) => child.on("close", resolve));
      await paused(pod.containerId);
      await new Promise((resolve) => setTimeout(resolve, delayMs));
      child.kill("SIGKILL");
      await ended;
      await goesOn(pod.containerId);
      expect((await fetch(`http://${stack.registry.host}/v2/committed/killed/manifests/1`)).status).toBe(404);
    }
    expect((await commit(pod.containerId, target)).code).toBe(0);
    const again = await startPod(stack, target, { name: "killed-again" });
    expect(await exec(again.containerId, "sha256sum /data/random")).toBe(await exec(pod.containerId, "sha256sum /data/random"));
    for (const each of [pod, again]) await each.remove();
  });

  test("a commit whose disk is full fails in one line, and the container goes on", async () => {
    const pod = await startFull("full");
    const disk = stack.workspace.path("full-disk");
    mkdirSync(disk);
    await run("mount", ["-t", "tmpfs", "-o", "size=8m", "tmpfs", disk]);
    try {
      const { code, stderr } = await commit(pod.containerId, `${stack.registry.host}/committed/full:1`, "--work-dir", disk);
      expect([code, stderr.match(/level=fatal/g)]).toEqual([1, ["level=fatal"]]);
      expect(stderr).toMatch(/ENOSPC|no space/i);
      expect(await status(pod.containerId)).toContain("RUNNING");
    } finally {
      await run("umount", [disk]);
    }
    await pod.remove();
  });

  test("a container is resumed although containerd goes away while it stands still, and the commit succeeds", async () => {
    const pod = await startFull("restarted");
    const target = `${stack.registry.host}/committed/restarted:1`;
    const committed = commit(pod.containerId, target);
    await paused(pod.containerId);
    await stack.containerd.program.stop();
    // Longer than ctr tries to reach it.
    await new Promise((resolve) => setTimeout(resolve, 12_000));
    await stack.containerd.restart();
    const { code, stderr } = await committed;
    expect([code, stderr]).toEqual([0, expect.stringContaining("1 layers")]);
    expect(await status(pod.containerId)).toContain("RUNNING");
    await pod.remove();
  });

  test("a commit does not wait without end for a containerd that hangs, and the container goes on when containerd does", async () => {
    const pod = await startFull("stuck");
    const committed = commit(pod.containerId, `${stack.registry.host}/committed/stuck:1`);
    await paused(pod.containerId);
    const { pid } = stack.containerd.program;
    process.kill(pid, "SIGSTOP");
    try {
      const { code, stderr } = await committed;
      expect([code, stderr]).toEqual([1, expect.stringMatching(/level=fatal msg="container .* can not be resumed: .*ctr tasks resume/)]);
    } finally {
      process.kill(pid, "SIGCONT");
    }
    await goesOn(pod.containerId);
    await pod.remove();
  });

  test("what can not be committed is told in one line", async () => {
    const oci = await pushApp(stack, "refused", files);
    const pod = await startPod(stack, oci, { name: "refused" });
    const target = `${stack.registry.host}/committed/refused:1`;
    const fatal = async (words: RegExp, containerId: string, ...more: string[]) => {
      const { code, stderr } = await commit(containerId, target, ...more);
      expect([code, stderr.trim().split("\n")]).toEqual([1, [expect.stringMatching(words)]]);
    };
    await fatal(/level=fatal msg=".*is not a nydus image/, pod.containerId);
    await fatal(/level=fatal msg=".*has no container/, "nothing");
    await fatal(/level=fatal msg=".*expected an absolute path/, pod.containerId, "--with-path", "data");
    await fatal(/level=fatal msg=".*invalid --maximum-times/, pod.containerId, "--maximum-times", "0");
    await stack.containerd.cri.stopContainer(pod.containerId);
    await fatal(/level=fatal msg=".*is not running/, pod.containerId);
    await pod.remove();
  });
});
