import { join } from "node:path";
import { run, Workspace } from "@nydus-ts/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Barrier, chunkBytes, fileBytes, fileOf, type LazyImage, lazyImage } from "./lazy-image.ts";
import { type Nydusd, registryConfig, startNydusd } from "./support.ts";

describe("reads of absent data", () => {
  let workspace: Workspace;
  let image: LazyImage;
  let nydusd: Nydusd;
  let mounts = 0;

  beforeAll(async () => {
    workspace = new Workspace("nydusd-misses");
    image = await lazyImage(workspace, { files: 64 });
    nydusd = await startNydusd(workspace, ["fuse"]);
  }, 60_000);
  afterAll(() => workspace[Symbol.asyncDispose]());

  const mount = async (rafs: Record<string, unknown> = {}): Promise<(index: number) => string> => {
    const at = `/${++mounts}`;
    image.registry.resetCounters();
    image.registry.faults.clear();
    const config = registryConfig(image.registry.host, image.newCache(`cache-${mounts}`), { backend: { timeout: 20 }, rafs });
    await nydusd.client.mount(at, { source: image.bootstrap, fs_type: "rafs", config });
    return (index) => join(nydusd.mountpoint, at, fileOf(index));
  };
  /** A process of its own for each: the threads of this one would queue them. One page, so that the kernel reads nothing ahead. */
  const readPage = (path: string, page = 0) =>
    run("dd", [`if=${path}`, "of=/dev/null", `bs=${chunkBytes}`, "count=1", `skip=${page}`, "status=none"]);

  test("twenty unrelated ones are all asked for before the first is answered", async () => {
    const path = await mount();
    const barrier = new Barrier(20);
    image.registry.faults.add({ path: /blobs/ }, { hold: barrier.pass });
    await Promise.all(Array.from({ length: 20 }, (_, index) => readPage(path(index * 3))));
    expect(barrier.arrived).toBeGreaterThanOrEqual(20);
  });
});
