import { spawnSync } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { Layout } from "../src/config/layout.ts";
import { startStack } from "./support/stack.ts";
import { makeDirectories, temporaryRoot } from "./support/world.ts";

const steps = 15;

function runSteps(root: string, killAt: number) {
  const program = join(import.meta.dirname, "support/crash-steps.ts");
  return spawnSync(
    process.execPath,
    ["--conditions=@nydus-ts/source", "--disable-warning=ExperimentalWarning", program, root, String(killAt)],
    { encoding: "utf8" },
  );
}

test("without a kill all steps run", async () => {
  await using root = temporaryRoot();
  makeDirectories(join(root.path, "snapshots"));
  expect(runSteps(root.path, 0).stdout).toBe(`steps ${steps}\n`);
});

test.for(Array.from({ length: steps }, (_, index) => index + 1))(
  "after a kill at step %d every record has its directory, every directory its record, and work goes on",
  async (step) => {
    await using directory = temporaryRoot();
    const root = join(directory.path, "root");
    makeDirectories(join(root, "snapshots"));
    expect(runSteps(root, step).signal).toBe("SIGKILL");
    await using stack = await startStack(directory.path, { nydusd: "/bin/false" });
    await stack.client.call("Cleanup", {});
    const layout = new Layout({ root });
    const infos = (await stack.client.list()).flat();
    const names = new Set(infos.map((info) => info.name));
    for (const info of infos) if (info.parent !== "") expect(names).toContain(info.parent);
    expect(readdirSync(layout.snapshots)).toHaveLength(infos.length);
    for (const name of readdirSync(layout.snapshots)) expect(existsSync(layout.fs(Number(name)))).toBe(true);
    const present = readdirSync(layout.snapshots).map(Number);
    const { mounts } = await stack.client.call("Prepare", { key: "next" });
    const id = Number(mounts[0].source.split("/").at(-2));
    expect(id).toBeGreaterThan(Math.max(0, ...present));
    expect(existsSync(mounts[0].source)).toBe(true);
  },
);
