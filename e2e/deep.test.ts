import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { busyboxRoot, gzipLayer, type Layer, pushLayout, run, Workspace, writeLayout } from "@nydus-ts/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { convert, expectNothingLeft, type Stack, startPod, startStack } from "./lib/stack.ts";

/** containerd's and Docker's own limit. */
const layerCount = 127;
/** The longest `root` that the snapshotter takes (its README). */
const rootBytes = 70;

// users.md row 59: an overlay's options must fit one page; containerd changes into the common folder of the lower directories when they do not.
describe(`an image of ${layerCount} layers below a root of ${rootBytes} bytes, with ids of six digits`, () => {
  let stack: Stack;
  let ordinary: string;
  let converted: string;

  beforeAll(async () => {
    const workspace = new Workspace("nydus-e2e");
    const name = "n".repeat(rootBytes - workspace.directory.length - "//root".length);
    stack = await startStack({ workspace, snapshotter: { name } });
    expect(stack.snapshotter.root).toHaveLength(rootBytes);
    const store = new DatabaseSync(join(stack.snapshotter.root, "metadata.sqlite"));
    store.exec("UPDATE sqlite_sequence SET seq = 899999; INSERT INTO sqlite_sequence SELECT 'snapshots', 899999 WHERE changes() = 0");
    store.close();
    ordinary = `${stack.registry.host}/deep:oci`;
    await pushLayout(await deepImage(workspace.path("deep")), ordinary);
    converted = await convert(ordinary);
  });
  afterAll(() => stack?.[Symbol.asyncDispose]());

  test.each([
    ["ordinary", () => ordinary],
    ["converted", () => converted],
  ])("runs, and shows files of the lowest and the topmost layer and what the one took from the other (%s)", async (kind, image) => {
    const pod = await startPod(stack, image(), { name: `deep-${kind}` });
    for (const layer of [0, 1, 63, layerCount - 1]) {
      const read = await stack.containerd.cri.execSync(pod.containerId, ["/bin/cat", `/layers/${layer}`, "/top"]);
      expect(read.stdout, read.stderr).toBe(`layer ${layer}\nlayer ${layerCount - 1}\n`);
    }
    const overlay = readFileSync("/proc/self/mountinfo", "utf8")
      .split("\n")
      .find((line) => line.includes(`/${pod.containerId}/rootfs `));
    // Shortened by containerd: names of six digits, seen from the common folder.
    if (kind === "ordinary") expect(overlay).toMatch(/lowerdir=9\d{5}\/fs:/);
    await pod.remove();
    await stack.containerd.cri.removeImage(image());
  });

  test("and nothing is left", async () => {
    await stack.containerd.cri.removeImage(`${stack.registry.host}/pause:1`);
    await expectNothingLeft(stack);
  });
});

/** Busybox below, then one layer a file; the file `top` is written by all of them. */
async function deepImage(directory: string): Promise<string> {
  const layers: Layer[] = [];
  for (let index = 0; index < layerCount; index++) {
    const root = join(directory, "root");
    mkdirSync(join(root, "layers"), { recursive: true });
    if (index === 0) await busyboxRoot(root);
    writeFileSync(join(root, `layers/${index}`), `layer ${index}\n`);
    writeFileSync(join(root, "top"), `layer ${index}\n`);
    const tar = join(directory, `${index}.tar`);
    await run("tar", ["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@1600000000", "-C", root, "-cf", tar, "."]);
    layers.push(await gzipLayer(tar));
    rmSync(root, { recursive: true });
  }
  return writeLayout(join(directory, "layout"), layers, { entrypoint: ["/bin/sleep", "2147483"] });
}
