import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import {
  busyboxImage,
  mountsUnder,
  ownBinaries,
  processesOf,
  pushLayout,
  type Registry,
  run,
  startRegistry,
  until,
  Workspace,
} from "@nydus-ts/testkit";
import { afterAll, beforeAll, expect, test } from "vitest";
import { imageFiles } from "./lib/stack.ts";

let workspace: Workspace;
let registry: Registry;
const files = imageFiles();
const nydusify = (...argv: string[]) => run(join(ownBinaries, "nydusify"), argv);
const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

beforeAll(async () => {
  workspace = new Workspace("nydusify");
  registry = await startRegistry(workspace);
  await pushLayout(await busyboxImage(workspace.path("image"), files), `${registry.host}/app:oci`);
});
afterAll(() => workspace?.[Symbol.asyncDispose]());

test.each(["data stored anew", "--oci-ref"])("convert, check against the source, and copy, with a real registry (%s)", async (how) => {
  const [source, target, copy] = ["app:oci", "app:nydus", "elsewhere/app:nydus"].map((name) => `${registry.host}/${name}`) as [
    string,
    string,
    string,
  ];
  await nydusify("convert", "--source", source, "--target", target, ...(how === "--oci-ref" ? [how] : []));
  const { stderr } = await nydusify("check", "--source", source, "--target", target);
  expect(stderr).toContain("verified image");
  await nydusify("copy", "--source", target, "--target", copy);
  expect((await nydusify("check", "--source", source, "--target", copy)).stderr).toContain("verified image");
});

test("mount shows the files until it is told to stop, and leaves no mount and no daemon behind", async () => {
  const [mountPath, work] = [workspace.path("mnt"), workspace.path("work")];
  await nydusify("convert", "--source", `${registry.host}/app:oci`, "--target", `${registry.host}/app:mounted`);
  const logFile = workspace.path("mount.log");
  const program = workspace.start({
    command: join(ownBinaries, "nydusify"),
    args: [
      "mount",
      "--target",
      `${registry.host}/app:mounted`,
      "--mount-path",
      mountPath,
      "--work-dir",
      work,
      "--nydusd",
      join(ownBinaries, "nydusd"),
    ],
    logFile,
  });
  await until("the image to be mounted", () => /level=info msg="mounted /.test(readFileSync(logFile, "utf8")) || undefined);
  const fetched = () =>
    registry
      .requests(/\/v2\/app\/blobs\/sha256/)
      .filter(({ method }) => method === "GET")
      .reduce((sum, { bytes }) => sum + bytes, 0);
  const before = fetched();
  expect(sha256(readFileSync(join(mountPath, "data/small/7")))).toBe(sha256(files["data/small/7"] as Uint8Array));
  expect(fetched() - before).toBeLessThan(3_000_000); // the data are 14 MB
  expect(sha256(readFileSync(join(mountPath, "data/bigger")))).toBe(sha256(files["data/bigger"] as Uint8Array));
  await program.stop();
  expect(await program.exited, program.tail()).toBe(0);
  expect(mountsUnder(workspace.path())).toEqual([]);
  expect(processesOf(mountPath)).toEqual([]);
  expect(existsSync(work)).toBe(false);
});
