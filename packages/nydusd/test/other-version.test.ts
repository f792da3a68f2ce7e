/** Images whose lower layers are of the other version, through the daemon. */
import { randomBytes } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { run, Workspace } from "@nydus-ts/testkit";
import { expect, test } from "vitest";
import { localConfig, startNydusd } from "./support.ts";

const repository = join(import.meta.dirname, "../../..");

test("files of a parent of the other version are read, also while and after an image of the parent's version shares the blob and the cache", async () => {
  await using workspace = new Workspace("nydusd-other-version");
  const create = async (name: string, source: string, version: number, ...options: string[]): Promise<string> => {
    const argv = ["create", "-v", String(version), "-D", workspace.path("blobs"), "-B", workspace.path(name), ...options];
    await run(join(repository, "bin/node"), [
      join(repository, "packages/nydus-image/src/bin.ts"),
      ...argv,
      "--chunk-size",
      "0x1000",
      workspace.path(source),
    ]);
    return workspace.path(name);
  };
  for (const directory of ["lower", "upper", "blobs", "cache"]) mkdirSync(workspace.path(directory));
  const contents = Array.from({ length: 30 }, (_, index) => randomBytes(index * 701));
  for (const [index, bytes] of contents.entries()) writeFileSync(workspace.path("lower", String(index)), bytes);
  writeFileSync(workspace.path("upper/new"), contents[29]!);
  const nydusd = await startNydusd(workspace, ["fuse"]);
  const read = async (source: string, at: string, names: readonly string[]): Promise<void> => {
    await nydusd.client.mount(at, { source, fs_type: "rafs", config: localConfig(workspace.path("blobs"), workspace.path("cache")) });
    for (const name of names) {
      const found = readFileSync(join(nydusd.mountpoint, at, name));
      expect(found.equals(name === "new" ? contents[29]! : contents[Number(name)]!)).toBe(true);
    }
    await nydusd.client.umount(at);
  };
  const names = contents.map((_, index) => String(index));
  for (const [below, version] of [
    [5, 6],
    [6, 5],
  ] as const) {
    const parent = await create(`parent${below}`, "lower", below);
    const image = await create(`image${version}`, "upper", version, "--parent-bootstrap", parent);
    await read(parent, `/parent${below}`, names);
    // A blob of version 6 has one cache, which an image that knows its chunk info and one that does not can't share at once.
    const beside = version === 6 ? [parent] : [];
    for (const source of beside) {
      await nydusd.client.mount("/beside", {
        source,
        fs_type: "rafs",
        config: localConfig(workspace.path("blobs"), workspace.path("cache")),
      });
      expect(readFileSync(join(nydusd.mountpoint, "beside/17")).equals(contents[17]!)).toBe(true);
    }
    await read(image, `/image${version}`, [...names, "new"]);
    for (const _ of beside) {
      expect(readFileSync(join(nydusd.mountpoint, "beside/18")).equals(contents[18]!)).toBe(true);
      await nydusd.client.umount("/beside");
    }
    await read(image, `/again${version}`, names);
    await read(parent, `/parent${below}`, names);
  }
}, 120_000);
