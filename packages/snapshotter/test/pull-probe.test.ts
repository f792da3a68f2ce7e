import { readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { NydusdClient } from "@nydus-ts/nydus-api";
import { TestRegistry } from "@nydus-ts/registry-client/testing";
import { expect, test } from "vitest";
import { FIXTURE_BLOB, IMAGE_REF, LABEL, pullNydusImage, REGISTRY_TEMPLATE, startStack } from "./support/stack.ts";
import { temporaryRoot, tinyNydusd } from "./support/world.ts";

const blob = Buffer.from("data of a blob, of which one byte is looked at");

async function world(root: string, registry: TestRegistry) {
  const { digest } = registry.putBlob(blob, "image");
  const stack = await startStack(root, { nydusd: tinyNydusd(root).command, template: REGISTRY_TEMPLATE });
  const pull = (changes: { blobDigest?: string; name?: string; labels?: Record<string, string> } = {}) =>
    pullNydusImage(stack.client, {
      blobDigest: digest,
      ...changes,
      labels: { [IMAGE_REF]: `${registry.host}/image:latest`, ...changes.labels },
      blobs: 3,
    });
  return { ...stack, pull, asked: () => registry.requests.filter(({ path }) => path.includes("/blobs/")) };
}

test("a pull looks at one byte of the image's data, once for all its layers", async () => {
  await using root = temporaryRoot();
  await using registry = await TestRegistry.start();
  await using stack = await world(root.path, registry);
  await stack.pull();
  expect(stack.asked().map(({ range, status, bytes }) => ({ range, status, bytes }))).toEqual([
    { range: "bytes=0-0", status: 206, bytes: 1 },
  ]);
});

test("a pull whose data cannot be had fails with image, host and cause, and the next one looks again", async () => {
  await using root = temporaryRoot();
  await using registry = await TestRegistry.start();
  await using stack = await world(root.path, registry);
  const rule = registry.faults.add({ path: /\/blobs\// }, { status: 403 });
  const failure = await stack.pull().then(
    () => "it succeeded",
    (error: Error) => error.message,
  );
  expect(failure).toContain(`image ${registry.host}/image:latest`);
  expect(failure).toContain("403");
  expect(await stack.client.names()).toEqual([]);
  rule.remove();
  await stack.pull({ name: "again" });
});

test("the look has the credentials that the layer's labels bring, and the message has none", async () => {
  await using root = temporaryRoot();
  await using registry = await TestRegistry.start({ auth: { kind: "basic", username: "user", password: "correct" } });
  await using stack = await world(root.path, registry);
  const labels = (password: string) => ({ [`${LABEL}pullusername`]: "user", [`${LABEL}pullsecret`]: password });
  const failure = await stack.pull({ labels: labels("mistaken") }).then(
    () => "it succeeded",
    (error: Error) => error.message,
  );
  expect(failure).toContain("401");
  await stack.pull({ name: "again", labels: labels("correct") });
  expect(failure + stack.log.join("")).not.toMatch(/mistaken|correct/);
});

test("what is in the cache is not asked for", async () => {
  await using root = temporaryRoot();
  await using registry = await TestRegistry.start();
  await using stack = await world(root.path, registry);
  writeFileSync(join(stack.root, "cache", `${FIXTURE_BLOB}.blob.data`), "x".repeat(4096));
  await stack.pull({ blobDigest: `sha256:${FIXTURE_BLOB}` });
  expect(stack.asked()).toEqual([]);
});

test("a pull that finds its data layers there looks all the same", async () => {
  await using root = temporaryRoot();
  await using registry = await TestRegistry.start();
  await using stack = await world(root.path, registry);
  await stack.pull();
  await stack.client.call("Remove", { key: "test/3/sha256:image-boot" });
  await stack.stop();
  const again = await startStack(root.path, { nydusd: tinyNydusd(root.path).command, template: REGISTRY_TEMPLATE });
  await using _ = again;
  registry.faults.add({ path: /\/blobs\// }, { status: 403 });
  const labels = { "containerd.io/snapshot.ref": "sha256:image-boot", [`${LABEL}nydus-bootstrap`]: "true" };
  await expect(again.client.call("Prepare", { key: "test/9/extract", parent: "sha256:image-2", labels })).rejects.toThrow("403");
});

test("the first mount right behind the pull asks for no data again; one of an image that no pull looked for does", async () => {
  await using root = temporaryRoot();
  await using registry = await TestRegistry.start();
  await using stack = await world(root.path, registry);
  const looked = await stack.pull({ name: "looked" });
  writeFileSync(join(stack.root, "cache", `${FIXTURE_BLOB}.blob.data`), "x".repeat(4096));
  const labels = { [IMAGE_REF]: `${registry.host}/image:cached` };
  const cached = await stack.pull({ name: "cached", blobDigest: `sha256:${FIXTURE_BLOB}`, labels });
  for (const top of [looked, cached]) await stack.client.call("Prepare", { key: `test/9/${top}`, parent: top });
  const [folder] = readdirSync(join(stack.root, "socket"));
  const daemon = new NydusdClient(join(stack.root, "socket", folder as string, "api.sock"));
  const info = JSON.parse((await daemon.raw("/api/v1/daemon")).text) as { backend_collection: Record<string, { probe: boolean }> };
  expect(Object.values(info.backend_collection).map(({ probe }) => probe)).toEqual([false, true]);
});
