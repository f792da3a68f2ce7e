import { join } from "node:path";
import { TestRegistry } from "@nydus-ts/registry-client/testing";
import { busyboxImage, ownBinaries, run } from "@nydus-ts/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { sha256 } from "./lib/golden-image.ts";
import { expectNothingLeft, fuseMounts, imageFiles, type Stack, startPod, startStack } from "./lib/stack.ts";

/** A look whether the data can be had: by the snapshotter at the pull, by nydusd at the mount. Not stored. */
const looks = new Set(["bytes=0-0", "bytes=0-4095"]);

describe.each(["shared", "dedicated"] as const)(
  "four containers of one image that read all of it at once (daemon_mode %s)",
  (daemonMode) => {
    let stack: Stack;
    let registry: TestRegistry;
    let image: string;
    const files = imageFiles();
    const wanted = Object.entries(files).map(([name, bytes]) => `${sha256(bytes)}  /${name}`);

    beforeAll(async () => {
      registry = await TestRegistry.start();
      stack = await startStack({ snapshotter: { daemonMode } });
      image = `${registry.host}/once:nydus`;
      const layout = await busyboxImage(stack.workspace.path("app"), files);
      await run(join(ownBinaries, "nydus-image"), ["convert", "--source", layout, "--target", image]);
    });
    afterAll(async () => {
      await stack?.[Symbol.asyncDispose]();
      await registry?.[Symbol.asyncDispose]();
    });

    test("share one daemon and one mount, and no byte of the data is asked for twice", async () => {
      const pods = await Promise.all([1, 2, 3, 4].map((n) => startPod(stack, image, { name: `once-${daemonMode}-${n}` })));
      const command = ["/bin/sha256sum", ...Object.keys(files).map((name) => `/${name}`)];
      const sums = await Promise.all(pods.map((pod) => stack.containerd.cri.execSync(pod.containerId, command, 120)));
      for (const { stdout, stderr } of sums) expect(stdout.trim().split("\n"), stderr).toEqual(wanted);
      expect(stack.snapshotter.daemons()).toHaveLength(1);
      expect(fuseMounts(stack)).toHaveLength(1);

      const asked = registry.requests.filter(({ path, range }) => path.includes("/blobs/") && range !== undefined && !looks.has(range));
      const ranges = asked.map(({ path, range }) => ({
        path,
        bytes:
          /^bytes=(\d+)-(\d+)$/
            .exec(range as string)
            ?.slice(1)
            .map(Number) ?? [],
      }));
      const sorted = ranges.toSorted((a, b) => (a.bytes[0] as number) - (b.bytes[0] as number));
      const twice = sorted.filter(({ path, bytes }, index) =>
        sorted.slice(0, index).some((other) => other.path === path && (other.bytes[1] as number) >= (bytes[0] as number)),
      );
      expect(twice).toEqual([]);
      // The data do not compress: all of it was fetched through these requests.
      const total = sorted.reduce((sum, { bytes }) => sum + (bytes[1] as number) - (bytes[0] as number) + 1, 0);
      expect(total).toBeGreaterThan(Object.values(files).reduce((sum, bytes) => sum + bytes.length, 0));
      for (const pod of pods) await pod.remove();
    });

    test("leave no mount, process, socket or cache file behind with the last container and image", async () => {
      for (const one of [image, `${stack.registry.host}/pause:1`]) await stack.containerd.cri.removeImage(one);
      await expectNothingLeft(stack);
    });
  },
);
