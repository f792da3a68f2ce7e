import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { explanationSchema, NydusdClient } from "@nydus-ts/nydus-api";
import { expect, test } from "vitest";
import { chainIdOf } from "../src/containerd/image-lookup.ts";
import { FIXTURE_BLOB, IMAGE_REF, pullNydusImage, startStack, upperOf } from "./support/stack.ts";
import { temporaryRoot, tinyNydusd } from "./support/world.ts";

async function world(root: string) {
  const system = join(root, "system.sock");
  const stack = await startStack(root, {
    nydusd: tinyNydusd(root).command,
    tables: `[system]\nenable = true\naddress = "${system}"`,
  });
  const explain = async (name: string) =>
    explanationSchema.parse(JSON.parse((await new NydusdClient(system).raw("/api/v1/explain", { name })).text));
  return { ...stack, explain };
}

test("a nydus image is explained layer by layer: data that is here and data that is not, mounted or not yet", async () => {
  await using root = temporaryRoot();
  await using stack = await world(root.path);
  const top = await pullNydusImage(stack.client);
  const before = await stack.explain("localhost:5000/image:latest");
  expect(before).toMatchObject({ snapshot: top, kind: "committed", image: "localhost:5000/image:latest", mountpoint: null, broken: null });
  expect(before.layers).toMatchObject([
    { digest: `sha256:${FIXTURE_BLOB}`, format: "nydus-blob", mode: "lazy", bytesLocal: 0 },
    { format: "nydus-bootstrap", mode: "lazy" },
  ]);
  const bytesTotal = before.layers[0]?.bytesTotal;
  expect(bytesTotal).toBeGreaterThan(4096);

  await stack.client.call("Prepare", { key: "test/9/container", parent: top });
  writeFileSync(join(stack.root, "cache", `${FIXTURE_BLOB}.blob.data`), "x".repeat(4096));
  // By the container's id, by the key of its snapshot, by the image: the same layers.
  for (const [name, kind] of [
    ["container", "active"],
    ["test/9/container", "active"],
    ["localhost:5000/image:latest", "committed"],
  ] as const) {
    const after = await stack.explain(name);
    expect(after).toMatchObject({ kind, image: "localhost:5000/image:latest", mountpoint: join(stack.root, "mnt/2") });
    expect(after.layers[0]).toMatchObject({ bytesLocal: 4096, bytesTotal });
  }
});

test("an ordinary image says of every layer that nothing in it asks for lazy loading", async () => {
  await using root = temporaryRoot();
  await using stack = await world(root.path);
  const labels = { [IMAGE_REF]: "localhost:5000/plain:1", "containerd.io/snapshot.ref": "sha256:plain" };
  const { mounts } = await stack.client.call("Prepare", { key: "test/1/extract", labels });
  writeFileSync(join(upperOf(mounts), "file"), "x".repeat(8192));
  await stack.client.call("Commit", { key: "test/1/extract", name: "test/2/sha256:plain", labels });
  const { layers, mountpoint } = await stack.explain("localhost:5000/plain:1");
  expect(mountpoint).toBeNull();
  expect(layers).toMatchObject([{ format: "ordinary", mode: "overlay", reason: expect.stringContaining("no nydus annotation") }]);
  expect(layers[0]?.bytesLocal).toBeGreaterThanOrEqual(8192);
  expect(layers[0]?.bytesTotal).toBe(layers[0]?.bytesLocal);
});

test("a data layer that no client gave a digest is known by its chain id", async () => {
  await using root = temporaryRoot();
  await using stack = await world(root.path);
  // Not the helper's labels: a client without CRI gives the target and the layer's own annotations, no more.
  const [below, target] = [`sha256:${"1".repeat(64)}`, chainIdOf(`sha256:${"1".repeat(64)}`, `sha256:${FIXTURE_BLOB}`)];
  const labels = { "containerd.io/snapshot.ref": below };
  await stack.client.call("Prepare", { key: "test/1/extract", labels });
  await stack.client.call("Commit", { key: "test/1/extract", name: `test/2/${below}`, labels });
  const blob = { "containerd.io/snapshot.ref": target, "containerd.io/snapshot/nydus-blob": "true" };
  await expect(stack.client.call("Prepare", { key: "test/3/extract", parent: `test/2/${below}`, labels: blob })).rejects.toThrow();
  expect((await stack.explain(target)).layers[1]).toMatchObject({ digest: null, format: "nydus-blob", bytesLocal: null, bytesTotal: null });
  const top = await pullNydusImage(stack.client, { blobs: 0, parent: target, labels: { [IMAGE_REF]: "" } });
  expect((await stack.explain(top)).layers[1]).toMatchObject({
    digest: `sha256:${FIXTURE_BLOB}`,
    bytesLocal: 0,
    bytesTotal: expect.any(Number),
  });
});

test("an unknown name is refused with the names there are; a damaged bootstrap leaves sizes unknown, not the answer", async () => {
  await using root = temporaryRoot();
  await using stack = await world(root.path);
  const top = await pullNydusImage(stack.client);
  await expect(stack.explain("localhost:5000/other:1")).rejects.toMatchObject({
    status: 404,
    daemonMessage: expect.stringContaining("localhost:5000/image:latest"),
  });
  rmSync(join(stack.root, "snapshots/2/fs/image"), { recursive: true });
  expect((await stack.explain(top)).layers[0]).toMatchObject({ digest: `sha256:${FIXTURE_BLOB}`, bytesTotal: null });
});
