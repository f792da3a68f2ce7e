/** Commands that write to a registry, killed at random moments: nothing is under the tag by half, and the same command then succeeds. */
import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { busyboxImage, ownBinaries, pushLayout, type Registry, run, startRegistry, Workspace } from "@nydus-ts/testkit";
import { afterAll, beforeAll, expect, test } from "vitest";

const program = join(ownBinaries, "nydusify");
const killsPerCommand = 4;
let workspace: Workspace;
let registry: Registry;
const image = (name: string): string => `${registry.host}/${name}`;

beforeAll(async () => {
  workspace = new Workspace("nydusify-interrupted");
  registry = await startRegistry(workspace);
  const shared = Object.fromEntries([0, 1, 2].map((i) => [`data/shared${i}`, randomBytes(1_500_000)]));
  const images: string[] = [];
  for (const version of [1, 2, 3, 4, 5]) {
    const layout = await busyboxImage(workspace.path(`image-${version}`), { ...shared, "data/own": randomBytes(3_000_000) });
    await pushLayout(layout, image(`app:${version}`));
    await run(program, ["convert", "--source", image(`app:${version}`), "--target", image(`app:${version}-nydus`)]);
    images.push(image(`app:${version}-nydus`));
  }
  const work = ["--work-dir", workspace.path("dictionary")];
  await run(program, ["chunkdict", "generate", "--sources", images.join(","), "--target", image("dictionary:1"), ...work]);
  writeFileSync(workspace.path("list.json"), JSON.stringify({ version: "v1", files: [{ path: "/data/own" }, { path: "/bin/busybox" }] }));
}, 300_000);
afterAll(() => workspace?.[Symbol.asyncDispose]());

const commands: Readonly<Record<string, () => string[]>> = {
  convert: () => ["convert", "--source", image("app:5")],
  "convert --oci-ref": () => ["convert", "--oci-ref", "--source", image("app:5")],
  "convert --chunk-dict": () => ["convert", "--source", image("app:5"), "--chunk-dict", `bootstrap:registry:${image("dictionary:1")}`],
  "convert --build-cache": () => ["convert", "--source", image("app:4"), "--build-cache", image("cache:1")],
  "convert --reverse": () => ["convert", "--reverse", "--source", image("app:3-nydus")],
  optimize: () => ["optimize", "--source", image("app:5-nydus"), "--prefetch-files", workspace.path("list.json")],
  "chunkdict generate": () => [
    "chunkdict",
    "generate",
    "--sources",
    [1, 2, 3, 4, 5].map((version) => image(`app:${version}-nydus`)).join(","),
  ],
  copy: () => ["copy", "--source", image("app:5-nydus")],
};

test.each(Object.keys(commands))("%s", { timeout: 300_000 }, async (name) => {
  const repository = `out/${name.replaceAll(/[^a-z]+/g, "-")}`;
  const statusOf = async (tag: string): Promise<number> =>
    (
      await fetch(`http://${registry.host}/v2/${repository}/manifests/${tag}`, {
        headers: { accept: "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json" },
      })
    ).status;
  const argv = (tag: string) => [
    ...commands[name]!(),
    "--target",
    image(`${repository}:${tag}`),
    "--work-dir",
    workspace.path(`work-${tag}`),
  ];
  const started = performance.now();
  await run(program, argv("whole"));
  const wholeMs = performance.now() - started;
  for (let i = 0; i < killsPerCommand; i++) {
    const tag = `killed-${i}`;
    const child = spawn(program, argv(tag), { stdio: "ignore" });
    const ended = new Promise<number | null>((resolve) => child.on("close", resolve));
    const timer = setTimeout(() => child.kill("SIGKILL"), (wholeMs * (i + 0.3 + Math.random() * 0.5)) / killsPerCommand);
    const code = await ended;
    clearTimeout(timer);
    const verify = (): Promise<{ stderr: string }> => {
      const isOci = name === "convert --reverse";
      const [source, target] = isOci ? [`${repository}:${tag}`, "app:3-nydus"] : [undefined, `${repository}:${tag}`];
      return run(program, ["check", "--target", image(target), ...(source === undefined ? [] : ["--source", image(source)])]);
    };
    // The tag comes last: where it is there, everything is, though the program was not told so any more.
    const status = await statusOf(tag);
    if (status === 200) expect((await verify()).stderr).toContain("verified image");
    else expect([status, code]).toEqual([404, null]);
    await run(program, argv(tag));
    expect((await verify()).stderr).toContain("verified image");
  }
});
