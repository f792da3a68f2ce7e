import { readdirSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { daemonProcesses } from "../src/daemons/process.ts";
import { pullNydusImage, startStack } from "./support/stack.ts";
import { temporaryRoot, tinyNydusd } from "./support/world.ts";

/** `NYDUS_STRESS=20000` for the long run. */
const rounds = Number(process.env["NYDUS_STRESS"] ?? 600);

test(`${rounds} containers made and removed, 64 at a time, while clean-up runs: no call fails and nothing is left`, {
  timeout: 600_000,
}, async () => {
  await using root = temporaryRoot();
  await using stack = await startStack(root.path, { nydusd: tinyNydusd(root.path).command });
  const { client } = stack;
  const images = [await pullNydusImage(client, { name: "one" }), await pullNydusImage(client, { name: "two", blobs: 5 })];
  let next = 0;
  const worker = async (): Promise<void> => {
    for (let round = next++; round < rounds; round = next++) {
      const key = `test/${round}/c`;
      const prepared = await client.call("Prepare", { key, parent: images[round % 2] });
      // As containerd does: Mounts when the task is made, then the end; clean-up comes from elsewhere.
      expect(await client.call("Mounts", { key })).toEqual(prepared);
      if (round % 50 === 0) void client.call("Cleanup", {});
      await client.call("Remove", { key });
    }
  };
  await Promise.all(Array.from({ length: 64 }, worker));
  expect(await client.names(["kind==active"])).toEqual([]);
  expect(daemonProcesses(`${root.path}/`)).toHaveLength(1);
  for (const name of ["two-4", "two-3", "two-2", "two-1", "two-0", "one-0"]) {
    if (name === "two-4" || name === "one-0") await client.call("Remove", { key: images[name === "one-0" ? 0 : 1] });
    await client.call("Remove", { key: `sha256:${name}` });
  }
  await client.call("Cleanup", {});
  expect(daemonProcesses(`${root.path}/`)).toEqual([]);
  expect(readdirSync(join(stack.root, "snapshots"))).toEqual([]);
});
