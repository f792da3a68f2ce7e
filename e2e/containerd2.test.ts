import { createHash } from "node:crypto";
import { goldenAbsent, goldenDir } from "@nydus-ts/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { buildContainerd } from "./lib/go.ts";
import { expectGoldenCtr, expectGoldenPod, pushGolden } from "./lib/golden-pod.ts";
import { convert, expectNothingLeft, imageFiles, pushApp, type Stack, startPod, startStack } from "./lib/stack.ts";

const version = "v2.2.1";
const built = await buildContainerd(version);
if ("skip" in built) console.log(`containerd ${version} is skipped: ${built.skip}`);
if (goldenDir() === undefined) console.log(goldenAbsent);

describe.skipIf("skip" in built)(`containerd ${version}`, () => {
  let stack: Stack;
  let ordinary: string;
  let converted: string;
  const files = imageFiles();
  const digest = createHash("sha256")
    .update(files["data/big"] as Uint8Array)
    .digest("hex");

  beforeAll(async () => {
    stack = await startStack({ containerd: { binaries: (built as { path: string }).path, configVersion: 3 } });
    ordinary = await pushApp(stack, "two", files);
    converted = await convert(ordinary);
  });
  afterAll(() => stack?.[Symbol.asyncDispose]());

  test("is really that version, and lists the plugin as ok", async () => {
    expect(await stack.containerd.cri.version()).toContain(version.slice(1));
    const { stdout } = await stack.containerd.ctr(["plugins", "ls"]);
    expect(stdout.split("\n").find((line) => /\snydus\s/.test(line))).toMatch(/ok\s*$/);
  });

  test.each([
    ["an ordinary image", () => ordinary],
    ["a converted image", () => converted],
  ])("runs %s in a pod", async (name, image) => {
    const pod = await startPod(stack, image(), { name: name.replaceAll(" ", "-") });
    const read = await stack.containerd.cri.execSync(pod.containerId, ["/bin/sha256sum", "/data/big"]);
    expect(read.stdout.split(" ")[0], read.stderr).toBe(digest);
    await pod.remove();
  });

  test("runs a converted image with ctr", async () => {
    await stack.containerd.ctr(["images", "pull", "--plain-http", "--snapshotter", "nydus", converted]);
    const { stdout } = await stack.containerd.ctr([
      "run",
      "--rm",
      "--net-host",
      "--snapshotter",
      "nydus",
      converted,
      "one",
      "/bin/sha256sum",
      "/data/big",
    ]);
    expect(stdout.split(" ")[0]).toBe(digest);
    await stack.containerd.ctr(["images", "rm", "--sync", converted]);
  });

  describe.skipIf(goldenDir() === undefined)("an image that the original tool converted", () => {
    const name = "small-v6-zstd-blake3";
    let image: string;
    beforeAll(async () => {
      image = await pushGolden(stack, name);
    });

    test("runs in a pod, which sees exactly what the listing says", async () => {
      await expectGoldenPod(stack, name, image);
      await stack.containerd.cri.removeImage(image);
    });

    test("runs with ctr", async () => {
      await stack.containerd.ctr(["images", "pull", "--plain-http", "--snapshotter", "nydus", image]);
      await expectGoldenCtr(stack, name, image);
      await stack.containerd.ctr(["images", "rm", "--sync", image]);
    });
  });

  test("leaves nothing of the images behind", async () => {
    for (const image of [ordinary, converted, `${stack.registry.host}/pause:1`]) await stack.containerd.cri.removeImage(image);
    await expectNothingLeft(stack);
  });
});
