import { createHash, randomBytes } from "node:crypto";
import { copyFileSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gunzipSync, gzipSync } from "node:zlib";
import { TestRegistry, type TestRegistryOptions } from "@nydus-ts/registry-client/testing";
import { run, type Workspace } from "@nydus-ts/testkit";

const repository = join(import.meta.dirname, "../../..");

export const fileBytes = 20_480;
export const chunkBytes = 4096;
/** Name of a file of the image, by its place in the blob. */
export const fileOf = (index: number): string => `/files/${String(index).padStart(3, "0")}`;

/** The range of the stored blob that holds a file: chunks of random bytes are stored as they are. */
export const rangeOf = (index: number): string => `bytes=${index * fileBytes}-${(index + 1) * fileBytes - 1}`;

/** An image of many files that lie one behind the other in one blob, each of `fileBytes` random bytes in chunks of 4 KiB. */
export interface LazyImage {
  readonly registry: TestRegistry;
  readonly bootstrap: string;
  readonly blobId: string;
  readonly contents: readonly Buffer[];
  /** A cache folder with what comes with an image: the blob metadata of its bootstrap layer, as the snapshotter puts it there. */
  newCache(name?: string): string;
  /** Ranges of data that were asked of the registry, in order. */
  ranges(): string[];
}

/** Converts a real OCI image with `nydus-image convert` from the registry into it, and unpacks the bootstrap layer. */
export async function lazyImage(
  workspace: Workspace,
  options: {
    readonly files: number;
    readonly prefetch?: readonly number[];
    readonly registry?: TestRegistryOptions;
    /** As the conversion names it; default its address. */
    readonly host?: (registry: TestRegistry) => string;
    /** Of the conversion. */
    readonly env?: (registry: TestRegistry) => Record<string, string>;
  },
): Promise<LazyImage> {
  const root = workspace.path("root");
  mkdirSync(join(root, "files"), { recursive: true });
  const contents = Array.from({ length: options.files }, () => randomBytes(fileBytes));
  for (const [index, bytes] of contents.entries()) writeFileSync(join(root, fileOf(index)), bytes);
  const layer = workspace.path("layer.tar");
  await run("tar", ["--sort=name", "-C", root, "-cf", layer, "files"]);
  const registry = await TestRegistry.start(options.registry);
  workspace.defer(() => registry[Symbol.asyncDispose]());
  const bytes = readFileSync(layer);
  const diffId = `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
  const architecture = process.arch === "arm64" ? "arm64" : "amd64";
  const config = { architecture, os: "linux", rootfs: { type: "layers", diff_ids: [diffId] } };
  registry.putImage("app", "source", [gzipSync(bytes)], { config });
  const host = options.host?.(registry) ?? registry.host;
  const convert = ["convert", "--source", `${host}/app:source`, "--target", `${host}/app:v1`, "--chunk-size", "0x1000"];
  const flags = options.prefetch === undefined ? [] : ["--prefetch-patterns"];
  await run(join(repository, "bin/node"), [join(repository, "packages/nydus-image/src/bin.ts"), ...convert, ...flags], {
    input: (options.prefetch ?? []).map((index) => `${fileOf(index)}\n`).join(""),
    env: options.env?.(registry) ?? {},
  });
  const { layers } = JSON.parse(stored(registry, registry.store.manifest("app", "v1")!.digest).toString()) as {
    layers: { digest: string }[];
  };
  const tar = workspace.path("bootstrap.tar");
  writeFileSync(tar, gunzipSync(stored(registry, layers.at(-1)!.digest)));
  await run("tar", ["-xf", tar, "-C", workspace.directory]);
  registry.resetCounters();
  const blobId = layers[0]!.digest.slice("sha256:".length);
  return {
    registry,
    bootstrap: workspace.path("image/image.boot"),
    blobId,
    contents,
    newCache(name = "cache") {
      const directory = workspace.path(name);
      mkdirSync(directory);
      const metas = readdirSync(workspace.path("image")).filter((file) => file.endsWith(".blob.meta"));
      for (const file of metas) copyFileSync(workspace.path("image", file), join(directory, file));
      return directory;
    },
    ranges: () => registry.requests.filter(({ path }) => path.includes(blobId)).map(({ range }) => range ?? "all"),
  };
}

/** Lets nobody through until `count` have come; then everybody, at once and from then on. */
export class Barrier {
  readonly count: number;
  arrived = 0;
  readonly #open = Promise.withResolvers<void>();
  constructor(count: number) {
    this.count = count;
  }
  readonly pass = async (): Promise<void> => {
    if (++this.arrived >= this.count) this.#open.resolve();
    await this.#open.promise;
  };
  open(): void {
    this.#open.resolve();
  }
}

/** Bytes of the registry's memory: also of one that only some may ask. */
export function stored({ store }: TestRegistry, digest: string): Buffer {
  return store.read(digest, 0, store.size(digest)! - 1) as Buffer;
}
