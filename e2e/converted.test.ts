import { createHash } from "node:crypto";
import { until } from "@nydus-ts/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  convert,
  expectNothingLeft,
  fuseMounts,
  imageFiles,
  loggedOutput,
  pushApp,
  type Stack,
  startPod,
  startStack,
} from "./lib/stack.ts";

describe("an image that we converted, through containerd", () => {
  let stack: Stack;
  let image: string;
  const files = imageFiles();
  const sha256 = (bytes: Uint8Array | undefined): string =>
    createHash("sha256")
      .update(bytes as Uint8Array)
      .digest("hex");
  const blobRequests = () => stack.registry.requests(/\/v2\/converted\/blobs\/sha256/).filter((request) => request.method === "GET");

  beforeAll(async () => {
    stack = await startStack();
    image = await convert(await pushApp(stack, "converted", files));
  });
  afterAll(() => stack?.[Symbol.asyncDispose]());

  test("is pulled without its data", async () => {
    const before = blobRequests().length;
    await stack.containerd.cri.pullImage(image);
    const fetched = blobRequests()
      .slice(before)
      .reduce((sum, request) => sum + request.bytes, 0);
    expect(fetched).toBeLessThan(1_000_000); // the data are 14 MB that do not compress
  });

  test("runs in a pod: exec reads its files, the log holds its output", async () => {
    const pod = await startPod(stack, image, { name: "converted", command: ["/bin/sh", "-c", "echo from the container; sleep 10000"] });
    for (const name of ["data/big", "data/small/0", "data/small/39"]) {
      const read = await stack.containerd.cri.execSync(pod.containerId, ["/bin/sha256sum", `/${name}`]);
      expect(read.stdout.split(" ")[0], name).toBe(sha256(files[name]));
    }
    await until("the log line", () => loggedOutput(pod.logFile) !== "" || undefined);
    expect(loggedOutput(pod.logFile)).toBe("from the container");
    await pod.remove();
  });

  test("two containers share one daemon and one mount, and no byte is fetched twice", async () => {
    const pods = await Promise.all([1, 2].map((n) => startPod(stack, image, { name: `shared-${n}` })));
    const before = blobRequests().length;
    const sums = await Promise.all(pods.map((pod) => stack.containerd.cri.execSync(pod.containerId, ["/bin/sha256sum", "/data/bigger"])));
    for (const sum of sums) expect(sum.stdout.split(" ")[0]).toBe(sha256(files["data/bigger"]));
    const fetched = blobRequests()
      .slice(before)
      .reduce((sum, request) => sum + request.bytes, 0);
    expect(fetched).toBeLessThanOrEqual(9_000_001 + 2 * 1_048_576); // the file, and at most a chunk at each end
    expect(stack.snapshotter.daemons()).toHaveLength(1);
    expect(fuseMounts(stack)).toHaveLength(1);
    for (const pod of pods) await pod.remove();
  });

  test("runs with ctr", async () => {
    // Pulled through CRI before: `ctr images pull` of containerd 1.6 applies every layer itself and knows no nydus layer (containerd.md 3.4).
    const args = ["run", "--rm", "--net-host", "--snapshotter", "nydus", image, "two", "/bin/sha256sum", "/data/small/7"];
    const { stdout } = await stack.containerd.ctr(args, { namespace: "k8s.io" });
    expect(stdout.split(" ")[0]).toBe(sha256(files["data/small/7"]));
  });

  test("leaves no mount, process, socket or cache file behind when the last container and image are removed", async () => {
    await stack.containerd.cri.removeImage(image);
    await stack.containerd.cri.removeImage(`${stack.registry.host}/pause:1`);
    await expectNothingLeft(stack);
  });
});

describe("an image that refers to its source's layers (--oci-ref), through containerd", () => {
  let stack: Stack;
  let image: string;
  const files = imageFiles();
  const sha256 = (bytes: Uint8Array | undefined): string =>
    createHash("sha256")
      .update(bytes as Uint8Array)
      .digest("hex");
  const manifestOf = async (reference: string): Promise<{ layers: { digest: string; annotations?: Record<string, string> }[] }> => {
    const [, host = "", repository = "", tag = ""] = /^([^/]+)\/(.+):([^:/]+)$/.exec(reference) ?? [];
    const answer = await fetch(`http://${host}/v2/${repository}/manifests/${tag}`, {
      headers: { accept: "application/vnd.oci.image.manifest.v1+json" },
    });
    return (await answer.json()) as Awaited<ReturnType<typeof manifestOf>>;
  };
  const fetched = () =>
    stack.registry
      .requests(/\/v2\/referring\/blobs\/sha256/)
      .filter((request) => request.method === "GET")
      .reduce((sum, request) => sum + request.bytes, 0);

  beforeAll(async () => {
    stack = await startStack();
    const source = await pushApp(stack, "referring", files);
    image = await convert(source, ["--oci-ref"]);
    const original = (await manifestOf(source)).layers.map(({ digest }) => digest);
    const referred = (await manifestOf(image)).layers.slice(0, -1);
    expect(referred.map(({ annotations }) => annotations?.["containerd.io/snapshot/nydus-ref"])).toEqual(original);
  });
  afterAll(() => stack?.[Symbol.asyncDispose]());

  test("runs in a pod, and a file costs little more than its own bytes of the layer", async () => {
    const before = fetched();
    const pod = await startPod(stack, image, { name: "referring" });
    const atStart = fetched() - before;
    expect(atStart).toBeLessThan(4_000_000); // the layer has 14 MB that do not compress
    for (const name of ["data/small/0", "data/small/39", "data/big"]) {
      const read = await stack.containerd.cri.execSync(pod.containerId, ["/bin/sha256sum", `/${name}`]);
      expect(read.stdout.split(" ")[0], name).toBe(sha256(files[name]));
    }
    // data/big has 5 MB, and a chunk is inflated from the context before it: at most two chunks more at each end. data/bigger is not touched.
    expect(fetched() - before - atStart).toBeLessThan(5_000_000 + 4 * 1_048_576);
    await pod.remove();
  });

  test("leaves nothing behind when it is removed", async () => {
    await stack.containerd.cri.removeImage(image);
    await stack.containerd.cri.removeImage(`${stack.registry.host}/pause:1`);
    await expectNothingLeft(stack);
  });
});
