/** Images that `optimize`, `chunkdict` and `convert --chunk-dict` make, run by containerd, and their files exported to the kernel's EROFS. */
import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { compareListings, listTree, ownBinaries, run } from "@nydus-ts/testkit";
import { afterAll, beforeAll, expect, test } from "vitest";
import { convert, imageFiles, pushApp, type Stack, startPod, startStack } from "./lib/stack.ts";

let stack: Stack;
const files = imageFiles();
const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");
const nydusify = (...argv: string[]) => run(join(ownBinaries, "nydusify"), argv);
const nydusImage = (...argv: string[]) => run(join(ownBinaries, "nydus-image"), argv);

beforeAll(async () => {
  stack = await startStack();
});
afterAll(() => stack?.[Symbol.asyncDispose]());

async function expectFiles(image: string, name: string, expected: Readonly<Record<string, Uint8Array>>): Promise<void> {
  const pod = await startPod(stack, image, { name });
  for (const path of ["data/big", "data/bigger", "data/small/0", "data/small/39"]) {
    const { stdout } = await stack.containerd.cri.execSync(pod.containerId, ["/bin/sha256sum", `/${path}`]);
    expect(stdout.split(" ")[0], path).toBe(sha256(expected[path] as Uint8Array));
  }
  await pod.remove();
}

test.each([[[]], [["--oci-ref"]], [["--fs-version", "5"]]])("an optimised image runs (converted with %j)", async (options) => {
  const name = `hot${options.join("").replaceAll("-", "")}`;
  const image = await convert(await pushApp(stack, name, files), options);
  writeFileSync(
    stack.workspace.path("list.json"),
    JSON.stringify({ version: "v1", files: [{ path: "/data/small/39" }, { path: "/data/big" }] }),
  );
  const target = `${stack.registry.host}/optimised/${name}:1`;
  const more = ["--prefetch-files", stack.workspace.path("list.json"), "--work-dir", stack.workspace.path("work")];
  await nydusify("optimize", "--source", image, "--target", target, ...more);
  await expectFiles(target, name, files);
});

test("an image runs whose data are in the blobs of a dictionary, in another repository", async () => {
  const images: string[] = [];
  for (const version of [1, 2, 3, 4, 5]) {
    images.push(
      await convert(await pushApp(stack, `version${version}/app`, { ...files, "data/own": Buffer.from(`${version} `.repeat(9000)) })),
    );
    await nydusify("copy", "--source", images.at(-1)!, "--target", `${stack.registry.host}/app:v${version}`);
  }
  const dictionary = `${stack.registry.host}/dictionary:1`;
  const sources = [1, 2, 3, 4, 5].map((version) => `${stack.registry.host}/app:v${version}`).join(",");
  await nydusify("chunkdict", "generate", "--sources", sources, "--target", dictionary, "--work-dir", stack.workspace.path("work"));
  const next = { ...files, "data/small/0": Buffer.from("changed") };
  const source = await pushApp(stack, "next/app", next);
  const target = `${stack.registry.host}/next/app:dict`;
  await nydusify("convert", "--source", source, "--target", target, "--chunk-dict", `bootstrap:registry:${dictionary}`);
  const answer = await fetch(`http://${stack.registry.host}/v2/next/app/manifests/dict`, {
    headers: { accept: "application/vnd.oci.image.manifest.v1+json" },
  });
  const { layers } = (await answer.json()) as { layers: { size: number }[] };
  expect(layers[0]!.size).toBeLessThan(2_000_000); // the data are 14 MB
  await expectFiles(target, "dictionary", next);
});

test.each(["optimize", "compact"])("%s of an encrypted image: the kernel reads the exported device as the source", async (verb) => {
  const work = (...parts: string[]) => stack.workspace.path(`encrypted-${verb}`, ...parts);
  for (const name of ["tree", "upper", "blobs", "mnt"]) mkdirSync(work(name), { recursive: true });
  for (const [path, bytes] of Object.entries(files).slice(0, 12)) writeFileSync(work("tree", path.replaceAll("/", "-")), bytes);
  writeFileSync(work("upper", ".wh.data-big"), "");
  const create = ["create", "--encrypt", "-D", work("blobs")];
  await nydusImage(...create, "-B", work("lower.boot"), work("tree"));
  await nydusImage(...create, "--parent-bootstrap", work("lower.boot"), "-B", work("image.boot"), work("upper"));
  writeFileSync(work("list"), JSON.stringify({ version: "v1", files: [{ path: "/data-small-3" }, { path: "/data-bigger" }] }));
  const before = readdirSync(work("blobs"));
  const options = verb === "optimize" ? ["--output-blob-dir", work("blobs"), "-p", work("list")] : ["--min-used-ratio", "90"];
  await nydusImage(verb, "-B", work("image.boot"), "-D", work("blobs"), ...options, "-O", work("new.boot"));
  expect(readdirSync(work("blobs"))).toHaveLength(before.length + 1);
  for (const [boot, disk] of [
    ["image.boot", "a.disk"],
    ["new.boot", "b.disk"],
  ] as const)
    await nydusImage("export", "--block", "-B", work(boot), "-D", work("blobs"), "-O", work(disk));
  const listings = [];
  for (const disk of ["a.disk", "b.disk"]) {
    await run("mount", ["-t", "erofs", "-o", "loop,ro", work(disk), work("mnt")]);
    try {
      listings.push(await listTree(work("mnt")));
      expect(sha256(readFileSync(work("mnt/data-bigger")))).toBe(sha256(files["data/bigger"] as Uint8Array));
    } finally {
      await run("umount", [work("mnt")]);
    }
  }
  expect(compareListings(listings[1]!, listings[0]!)).toEqual([]);
});
