import { existsSync, mkdirSync, readdirSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { request } from "node:http";
import { join } from "node:path";
import { TestRegistry } from "@nydus-ts/registry-client/testing";
import { busyboxImage, mountsUnder, ownBinaries, run, until } from "@nydus-ts/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { sha256 } from "./lib/golden-image.ts";
import { bootstrapOf, snapshotsOf } from "./lib/snapshots.ts";
import { expectNothingLeft, fuseMounts, imageFiles, type Stack, startPod, startStack, untilConnected } from "./lib/stack.ts";

const credentials = { username: "robot", password: "s3cret" };

// users.md row 7: with others, one image that can not be restored stops the start, and nobody can even delete it.
describe("a node that comes up again without its registry, without credentials, and with a damaged bootstrap", () => {
  let stack: Stack;
  let registry: TestRegistry;
  const names = ["good", "damaged"] as const;
  const images = {} as Record<(typeof names)[number], string>;
  const files = { good: imageFiles(), damaged: imageFiles() };
  const dockerConfig = () => stack.workspace.path("nydus/.docker/config.json");
  const broken = () => getJson(stack.snapshotter.systemSocket, "/api/v1/instances/broken") as Promise<{ image: string; reason: string }[]>;
  const ctrRead = (image: string, file: string, id: string) =>
    stack.containerd.ctr(["run", "--rm", "--net-host", "--snapshotter", "nydus", image, id, "/bin/sha256sum", `/${file}`], {
      namespace: "k8s.io",
      check: false,
      deadlineMs: 60_000,
    });

  beforeAll(async () => {
    registry = await TestRegistry.start({ auth: { kind: "basic", ...credentials } });
    stack = await startStack({
      snapshotter: {
        nydusdConfig: {
          amplify_io: 0,
          device: {
            backend: { type: "registry", config: { timeout: 2, connect_timeout: 2, retry_limit: 1 } },
            cache: { type: "blobcache", config: {} },
          },
        },
      },
    });
    mkdirSync(stack.workspace.path("nydus/.docker"), { recursive: true });
    const auth = Buffer.from(`${credentials.username}:${credentials.password}`).toString("base64");
    writeFileSync(dockerConfig(), JSON.stringify({ auths: { [registry.host]: { auth } } }));
    for (const name of names) {
      images[name] = `${registry.host}/${name}:nydus`;
      const layout = await busyboxImage(stack.workspace.path(name), files[name]);
      const env = { DOCKER_CONFIG: stack.workspace.path("nydus/.docker") };
      await run(join(ownBinaries, "nydus-image"), ["convert", "--source", layout, "--target", images[name]], { env });
      const pod = await startPod(stack, images[name], { name, auth: credentials });
      const read = await stack.containerd.cri.execSync(pod.containerId, ["/bin/sha256sum", "/data/big", "/bin/busybox"]);
      expect(read.stdout.split(" ")[0], read.stderr).toBe(sha256(files[name]["data/big"] as Uint8Array));
      await pod.remove();
    }
  });
  afterAll(async () => {
    await stack?.[Symbol.asyncDispose]();
    await registry?.[Symbol.asyncDispose]();
  });

  test("is ready all the same, mounts what is whole, and sets aside what is not", async () => {
    const bootstrap = await bootstrapFile(stack, images.damaged);
    // As after a reboot: no snapshotter, no daemon, no mount. Then registry and credentials go, and a file is cut.
    stack.snapshotter.program.kill("SIGKILL");
    await stack.snapshotter.program.exited;
    for (const { pid } of stack.snapshotter.daemons()) process.kill(pid, "SIGKILL");
    await until("the daemons to end", () => stack.snapshotter.daemons().length === 0 || undefined);
    for (const point of mountsUnder(stack.snapshotter.root)) await run("umount", ["-l", point]);
    registry.faults.add({ path: /./ }, { status: 503 });
    rmSync(dockerConfig());
    truncateSync(bootstrap, 5_000);
    const asked = registry.requests.length;
    await stack.snapshotter.restart();
    await untilConnected(stack);
    const aside = await until("the damaged image to be set aside", async () => {
      const found = await broken();
      return found.length > 0 ? found : undefined;
    });
    expect(aside.map(({ image }) => image)).toEqual([images.damaged]);
    expect(aside[0]?.reason).toContain("image.boot");
    await until("the whole image to be mounted", () => fuseMounts(stack).length === 1 || undefined);
    expect(registry.requests.length, "a start asks no registry").toBe(asked);
  });

  test("runs containers of the whole image from the cache", async () => {
    const { code, stdout, stderr } = await ctrRead(images.good, "data/big", "from-cache");
    expect(code, stderr).toBe(0);
    expect(stdout.split(" ")[0]).toBe(sha256(files.good["data/big"] as Uint8Array));
  });

  test("refuses a container of the damaged one with the file and what to do, and removes it", async () => {
    const { code, stderr } = await ctrRead(images.damaged, "data/big", "from-damaged");
    expect(code).not.toBe(0);
    expect(stderr).toContain("image.boot");
    expect(stderr).toMatch(/convert and push it again/);
    await stack.containerd.cri.removeImage(images.damaged);
    await until("its directories to go", async () => {
      using client = snapshotsOf(stack);
      const ids = readdirSync(join(stack.snapshotter.root, "snapshots"));
      return (ids.length === (await client.names()).length && (await broken()).length === 0) || undefined;
    });
    expect((await ctrRead(images.good, "data/big", "after-removal")).code).toBe(0);
  });

  test("fetches what was missing when the registry is back, without a restart", async () => {
    registry.faults.clear();
    const { code, stdout, stderr } = await ctrRead(images.good, "data/bigger", "registry-back");
    expect(code, stderr).toBe(0);
    expect(stdout.split(" ")[0]).toBe(sha256(files.good["data/bigger"] as Uint8Array));
    for (const image of [images.good, `${stack.registry.host}/pause:1`]) await stack.containerd.cri.removeImage(image);
    await expectNothingLeft(stack);
  });
});

/** The unpacked bootstrap of an image, found through the snapshots' records. */
async function bootstrapFile(stack: Stack, image: string): Promise<string> {
  using client = snapshotsOf(stack);
  const { mounts } = await client.call("View", { key: "quarantine/1/look", parent: await bootstrapOf(client, image) });
  await client.call("Remove", { key: "quarantine/1/look" });
  // …/mnt/ID is where the image of snapshot ID appears.
  const id = /lowerdir=[^:,]*\/mnt\/(\d+)/.exec(mounts[0]?.options.join(",") ?? "")?.[1];
  const path = join(stack.snapshotter.root, "snapshots", String(id), "fs/image/image.boot");
  if (!existsSync(path)) throw new Error(`${path} is missing`);
  return path;
}

function getJson(socketPath: string, path: string): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const call = request({ socketPath, path }, (response) => {
      const parts: Buffer[] = [];
      response.on("data", (part: Buffer) => parts.push(part));
      response.on("end", () => {
        const text = Buffer.concat(parts).toString();
        if (response.statusCode === 200) resolve(JSON.parse(text));
        else reject(new Error(`${path}: ${response.statusCode} ${text}`));
      });
    });
    call.on("error", reject);
    call.end();
  });
}
