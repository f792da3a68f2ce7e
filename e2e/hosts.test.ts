import { cpSync, mkdirSync, writeFileSync } from "node:fs";
import { freePort, until, Workspace } from "@nydus-ts/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { sha256 } from "./lib/golden-image.ts";
import { snapshotsOf } from "./lib/snapshots.ts";
import { convert, expectNothingLeft, imageFiles, pushApp, type Stack, startPod, startStack } from "./lib/stack.ts";

// users.md row 61: with the original, pull and mount succeed and every read is EIO.
describe("a registry that can be reached only by a rule in containerd's certs.d", () => {
  let stack: Stack;
  let image: string;
  let containerdHosts: string;
  let ourHosts: string;
  const files = imageFiles();

  beforeAll(async () => {
    const workspace = new Workspace("nydus-e2e");
    containerdHosts = workspace.path("certs.d");
    ourHosts = workspace.path("told-later");
    stack = await startStack({
      workspace,
      snapshotter: { toml: `[remote.mirrors_config]\ncontainerd_config_path = "${ourHosts}"` },
      containerd: { hostsDirectory: containerdHosts },
    });
    const converted = await convert(await pushApp(stack, "app", files));
    // Nobody listens at the name in the reference; only the rule leads to the registry.
    const alias = `127.0.0.77:${await freePort()}`;
    image = converted.replace(stack.registry.host, alias);
    mkdirSync(`${containerdHosts}/${alias}`, { recursive: true });
    writeFileSync(
      `${containerdHosts}/${alias}/hosts.toml`,
      `server = "http://${stack.registry.host}"\n[host."http://${stack.registry.host}"]\n  capabilities = ["pull", "resolve"]\n`,
    );
  });
  afterAll(() => stack?.[Symbol.asyncDispose]());

  test("fails the pull, with host and cause, while the snapshotter does not know the rule", async () => {
    const failure = await stack.containerd.cri.pullImage(image).then(
      () => "it succeeded",
      (error: Error) => error.message,
    );
    expect(failure).toContain(image);
    expect(failure).toContain(image.split("/")[0]);
    expect(failure).toContain("ECONNREFUSED");
    expect(failure).toContain("containerd_config_path");
    expect(await stack.containerd.cri.imageStatus(image)).toBeUndefined();
    // The data layer that was skipped goes with containerd's next collection; a pull that comes just then loses its parent (containerd's own race).
    using client = snapshotsOf(stack);
    await until("the failed pull's layer to be collected", async () => (await client.names()).length === 0 || undefined);
  });

  test("is pulled and read lazily as soon as it does, without a restart", async () => {
    cpSync(containerdHosts, ourHosts, { recursive: true });
    const pod = await startPod(stack, image, { name: "aliased" });
    const read = await stack.containerd.cri.execSync(pod.containerId, ["/bin/sha256sum", "/data/big"]);
    expect(read.stdout.split(" ")[0], read.stderr).toBe(sha256(files["data/big"] as Uint8Array));
    await pod.remove();
  });

  test("and nothing is left when the image is removed", async () => {
    await stack.containerd.cri.removeImage(image);
    await stack.containerd.cri.removeImage(`${stack.registry.host}/pause:1`);
    await expectNothingLeft(stack);
  });
});
