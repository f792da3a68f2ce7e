import { mkdirSync, writeFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { TestRegistry } from "@nydus-ts/registry-client/testing";
import { Workspace } from "@nydus-ts/testkit";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { fileOf, type LazyImage, lazyImage, stored } from "./lazy-image.ts";
import { type Nydusd, registryConfig, startNydusd } from "./support.ts";

describe("mirrors of hosts.toml", () => {
  let workspace: Workspace;
  let image: LazyImage;
  let blob: Buffer;
  let nydusd: Nydusd;
  let mirror: TestRegistry;
  let mounts = 0;

  beforeAll(async () => {
    workspace = new Workspace("nydusd-mirrors");
    image = await lazyImage(workspace, { files: 64 });
    blob = stored(image.registry, `sha256:${image.blobId}`);
    nydusd = await startNydusd(workspace, ["fuse"]);
  }, 60_000);
  afterAll(() => workspace[Symbol.asyncDispose]());
  afterEach(() => mirror[Symbol.asyncDispose]());

  const startMirror = async (port = 0): Promise<void> => {
    mirror = await TestRegistry.start({ port });
    mirror.putBlob(blob, "app");
  };

  /** Mounts the image as one of that registry, with one hosts.toml for all registries. */
  const mount = async (host: string, more = ""): Promise<(index: number) => Promise<Buffer>> => {
    const directory = workspace.path(`certs-${++mounts}`, "_default");
    mkdirSync(directory, { recursive: true });
    const toml = `[host."http://${mirror.host}"]\n${more}[host."http://${mirror.host}".header]\nx-registry = ["https://\${registry}"]\n`;
    writeFileSync(join(directory, "hosts.toml"), toml);
    image.registry.resetCounters();
    const hosts_dirs = [workspace.path(`certs-${mounts}`)];
    const config = registryConfig(host, image.newCache(`cache-${mounts}`), { backend: { hosts_dirs, timeout: 20 } });
    const at = `/${mounts}`;
    await nydusd.client.mount(at, { source: image.bootstrap, fs_type: "rafs", config });
    return (index) => readFile(join(nydusd.mountpoint, at, fileOf(index)));
  };

  test("one file serves every registry: the mirror is told in a header which one is meant", async () => {
    await startMirror();
    const { port } = image.registry;
    for (const [index, host] of [`127.0.0.1:${port}`, `localhost:${port}`].entries()) {
      const read = await mount(host);
      expect(await read(index)).toEqual(image.contents[index]);
      expect(mirror.requests.at(-1)?.headers["x-registry"]).toBe(`https://${host}`);
    }
    expect(image.ranges()).toEqual([]);
  });

  test("after a mirror died reads are right and bypass it; it is used again after a probe found it well; the API names each host", async () => {
    await startMirror();
    const { port } = mirror;
    const read = await mount(image.registry.host, "failure_limit = 2\nhealth_check_interval = 1\n");
    expect(await read(0)).toEqual(image.contents[0]);
    expect(image.ranges()).toEqual([]);
    const hosts = async () => (await nydusd.client.backendMetrics(`/${mounts}`)).hosts ?? [];
    await mirror[Symbol.asyncDispose]();
    for (let index = 1; index < 20; index++) expect(await read(index)).toEqual(image.contents[index]);
    expect(image.ranges().length).toBeGreaterThan(0);
    const [dead, origin] = await hosts();
    // Probes while it is dead may have failed as well; no read did but the first two.
    expect(dead).toMatchObject({ url: `http://127.0.0.1:${port}/v2`, kind: "mirror", state: "open", failures: 2 });
    expect(dead?.bypasses).toBeGreaterThan(0);
    expect(origin).toMatchObject({ kind: "origin", state: "closed" });
    const labels = `backend="/${mounts}",host="http://127.0.0.1:${port}/v2"`;
    expect(await nydusd.client.prometheus()).toContain(`nydusd_backend_host_open{${labels}} 1`);
    await startMirror(port);
    let next = 20;
    await expect
      .poll(
        async () => {
          expect(await read(next)).toEqual(image.contents[next]);
          next++;
          return mirror.requests.some(({ path }) => path.includes("/blobs/"));
        },
        { interval: 200, timeout: 8_000 },
      )
      .toBe(true);
    expect((await hosts())[0]).toMatchObject({ state: "closed" });
  });
});
