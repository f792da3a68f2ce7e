import { request } from "node:http";
import { join } from "node:path";
import { expect, test } from "vitest";
import { daemonProcesses } from "../src/daemons/process.ts";
import { pullNydusImage, startStack } from "./support/stack.ts";
import { temporaryRoot, tinyNydusd, until } from "./support/world.ts";

function call(socketPath: string, method: string, path: string, body?: string): Promise<{ status: number; json: unknown }> {
  return new Promise((resolve, reject) => {
    const sent = request({ socketPath, method, path }, async (response) => {
      let text = "";
      for await (const part of response) text += String(part);
      resolve({ status: response.statusCode ?? 0, json: text === "" ? undefined : JSON.parse(text) });
    });
    sent.on("error", reject).end(body);
  });
}

test("the system socket lists daemons with their images, and refuses what it does not know", async () => {
  await using root = temporaryRoot();
  const system = join(root.path, "system.sock");
  await using stack = await startStack(root.path, {
    nydusd: tinyNydusd(root.path).command,
    tables: `[system]\nenable = true\naddress = "${system}"`,
  });
  const top = await pullNydusImage(stack.client);
  await stack.client.call("Prepare", { key: "test/9/c", parent: top });
  const [daemon] = daemonProcesses(`${root.path}/`);
  const { status, json } = await call(system, "GET", "/api/v1/daemons");
  expect(status).toBe(200);
  expect(json).toEqual([
    expect.objectContaining({
      pid: daemon.pid,
      reference: 1,
      mountpoint: join(stack.root, "mnt"),
      instances: {
        "2": { snapshot_id: "2", mountpoint: join(stack.root, "mnt/2"), image_id: "localhost:5000/image:latest", broken: null },
      },
    }),
  ]);
  expect((json as { memory_rss_kb: number }[])[0].memory_rss_kb).toBeGreaterThan(1_000);
  expect((await call(system, "GET", "/api/v1/nonsense")).status).toBe(404);
  expect((await call(system, "DELETE", "/api/v1/daemons")).status).toBe(405);
  expect((await call(system, "GET", "/api/v1/daemons/records")).status).toBe(501);
  for (const body of ["{", "{}", '[{"image":""}]']) expect((await call(system, "PUT", "/api/v1/prefetch", body)).status).toBe(400);
});

test("a prefetch list goes to the next mount of exactly that image, once", async () => {
  await using root = temporaryRoot();
  const system = join(root.path, "system.sock");
  await using stack = await startStack(root.path, {
    nydusd: tinyNydusd(root.path).command,
    tables: `[system]\nenable = true\naddress = "${system}"`,
  });
  const list = JSON.stringify([{ image: "localhost:5000/one:latest", prefetch: "/bin/sh\n /etc/passwd \n" }]);
  expect((await call(system, "PUT", "/api/v1/prefetch", list)).status).toBe(200);
  const mounts = async (name: string) => {
    const top = await pullNydusImage(stack.client, { name });
    await stack.client.call("Prepare", { key: `test/9/${name}`, parent: top });
  };
  await mounts("two");
  await mounts("one");
  const [daemon] = (await call(system, "GET", "/api/v1/daemons")).json as { api_socket: string }[];
  const info = (await call(daemon.api_socket, "GET", "/api/v1/daemon")).json as {
    backend_collection: Record<string, { prefetch?: string[] }>;
  };
  expect(Object.values(info.backend_collection).map((mount) => mount.prefetch)).toEqual([undefined, ["/bin/sh", "/etc/passwd"]]);
});

test("a broken image is visible, and the repair mounts it when its cause is gone", async () => {
  await using root = temporaryRoot();
  const system = join(root.path, "system.sock");
  const tiny = tinyNydusd(root.path);
  const options = { nydusd: tiny.command, tables: `[system]\nenable = true\naddress = "${system}"` };
  const first = await startStack(root.path, options);
  const top = await pullNydusImage(first.client);
  const { mounts } = await first.client.call("Prepare", { key: "test/9/c", parent: top });
  await first.stop();
  for (const { pid } of daemonProcesses(`${root.path}/`)) process.kill(pid, "SIGKILL");
  tiny.order({ refuseMount: "the cache disk is gone" });
  await using second = await startStack(root.path, options);
  const broken = await until(async () => {
    const { json } = await call(system, "GET", "/api/v1/instances/broken");
    return (json as unknown[]).length > 0 && json;
  }, "the image to be set aside");
  expect(broken).toEqual([{ key: "2", image: "localhost:5000/image:latest", reason: expect.stringContaining("the cache disk is gone") }]);
  tiny.order({});
  expect((await call(system, "PUT", "/api/v1/reconcile")).json).toEqual({ broken: [] });
  expect(await second.client.call("Mounts", { key: "test/9/c" })).toEqual({ mounts });
});

test("metrics speak Prometheus, with the original's names, and count calls and daemons", async () => {
  await using root = temporaryRoot();
  const port = 20_000 + (process.pid % 20_000);
  await using stack = await startStack(root.path, {
    nydusd: tinyNydusd(root.path).command,
    tables: `[metrics]\naddress = "127.0.0.1:${port}"`,
  });
  const top = await pullNydusImage(stack.client);
  await stack.client.call("Prepare", { key: "test/9/c", parent: top });
  const response = await fetch(`http://127.0.0.1:${port}/v1/metrics`);
  const text = await response.text();
  expect(response.headers.get("content-type")).toMatch(/^text\/plain/);
  expect(text).toMatch(/^nydusd_counts\{version="v[^"]+"\} 1$/m);
  expect(text).toMatch(/^nydusd_lifetime_event_counts\{nydusd_event="RUNNING"\} 1$/m);
  expect(text).toMatch(/^nydusd_image_info\{daemon_id="[^"]+",image_ref="localhost:5000\/image:latest"\} 1$/m);
  expect(text).toMatch(/^snapshotter_snapshot_operation_elapsed_milliseconds_count\{snapshot_operation="PREPARE"\} 3$/m);
  expect(text).toMatch(/^snapshotter_memory_usage_kilobytes \d+$/m);
  for (const line of text.trim().split("\n")) expect(line).toMatch(/^(|#.*|[a-z_]+(\{[^}]*\})? [0-9.e+-]+)$/);
  expect((await fetch(`http://127.0.0.1:${port}/other`)).status).toBe(404);
});
