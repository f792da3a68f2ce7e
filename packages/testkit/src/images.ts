import { createHash } from "node:crypto";
import {
  copyFileSync,
  createReadStream,
  createWriteStream,
  existsSync,
  mkdirSync,
  openAsBlob,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import { pipeline } from "node:stream/promises";
import { createGzip } from "node:zlib";
import { run } from "./process.ts";

export interface Descriptor {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
  readonly annotations?: Readonly<Record<string, string>>;
}

export interface ImageConfig {
  readonly cmd?: readonly string[];
  readonly entrypoint?: readonly string[];
  readonly env?: readonly string[];
}

/** A layer ready to be put into an image: a file, its descriptor, its diff ID. */
export interface Layer {
  readonly file: string;
  readonly descriptor: Descriptor;
  readonly diffId: string;
}

const mediaTypes = {
  manifest: "application/vnd.oci.image.manifest.v1+json",
  config: "application/vnd.oci.image.config.v1+json",
  layer: "application/vnd.oci.image.layer.v1.tar+gzip",
} as const;

/** Gzips a tar into a layer file beside it. */
export async function gzipLayer(tarFile: string, level = 6): Promise<Layer> {
  const file = `${tarFile}.gz`;
  const diff = createHash("sha256");
  await pipeline(
    createReadStream(tarFile, { highWaterMark: 1 << 20 }),
    async function* (source) {
      for await (const part of source) {
        diff.update(part as Uint8Array);
        yield part;
      }
    },
    createGzip({ level }),
    createWriteStream(file),
  );
  return { file, descriptor: { mediaType: mediaTypes.layer, ...(await digestFile(file)) }, diffId: `sha256:${diff.digest("hex")}` };
}

/** Writes an OCI image layout folder with one image, tagged `tag`. Layer files are copied. */
export async function writeLayout(directory: string, layers: readonly Layer[], config: ImageConfig, tag = "latest"): Promise<string> {
  const blobs = join(directory, "blobs/sha256");
  mkdirSync(blobs, { recursive: true });
  for (const layer of layers) copyFileSync(layer.file, join(blobs, layer.descriptor.digest.slice(7)));
  const put = (mediaType: string, content: object): Descriptor => {
    const bytes = Buffer.from(JSON.stringify(content));
    const digest = createHash("sha256").update(bytes).digest("hex");
    writeFileSync(join(blobs, digest), bytes);
    return { mediaType, digest: `sha256:${digest}`, size: bytes.length };
  };
  const configDescriptor = put(mediaTypes.config, {
    created: "2020-01-01T00:00:00Z",
    architecture: process.arch === "arm64" ? "arm64" : "amd64",
    os: "linux",
    config: {
      Env: config.env ?? ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
      Cmd: config.cmd,
      Entrypoint: config.entrypoint,
    },
    rootfs: { type: "layers", diff_ids: layers.map((layer) => layer.diffId) },
    history: layers.map(() => ({ created: "2020-01-01T00:00:00Z", created_by: "testkit" })),
  });
  const manifest = put(mediaTypes.manifest, {
    schemaVersion: 2,
    mediaType: mediaTypes.manifest,
    config: configDescriptor,
    layers: layers.map((layer) => layer.descriptor),
  });
  writeFileSync(join(directory, "oci-layout"), JSON.stringify({ imageLayoutVersion: "1.0.0" }));
  writeFileSync(
    join(directory, "index.json"),
    JSON.stringify({ schemaVersion: 2, manifests: [{ ...manifest, annotations: { "org.opencontainers.image.ref.name": tag } }] }),
  );
  return directory;
}

/** A layout of the static busybox and a few files: small, and enough for reading tests; with its default command it serves as the image of pod sandboxes. */
export async function busyboxImage(
  directory: string,
  files: Readonly<Record<string, string | Uint8Array>> = {},
  config: ImageConfig = { entrypoint: ["/bin/sleep", "2147483"] },
): Promise<string> {
  const rootfs = join(directory, "rootfs");
  await busyboxRoot(rootfs, files);
  return imageFromDirectory(rootfs, join(directory, "layout"), config);
}

/** The root file system of `busyboxImage`. */
export async function busyboxRoot(rootfs: string, files: Readonly<Record<string, string | Uint8Array>> = {}): Promise<void> {
  for (const folder of ["bin", "tmp", "proc", "sys", "dev", "etc"]) mkdirSync(join(rootfs, folder), { recursive: true });
  const found = ["/bin/busybox", "/usr/bin/busybox"].find((path) => existsSync(path));
  if (found === undefined) throw new Error("busybox is missing; run scripts/setup");
  copyFileSync(found, join(rootfs, "bin/busybox"));
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(dirname(join(rootfs, path)), { recursive: true });
    writeFileSync(join(rootfs, path), content);
  }
  await run("sh", ["-c", "for a in sh sleep cat ls sha256sum find echo true dd; do ln -sf busybox bin/$a; done"], { directory: rootfs });
}

/** One layer from a folder: owners root, times fixed, so that the same content gives the same digests. */
export async function imageFromDirectory(rootfs: string, layout: string, config: ImageConfig): Promise<string> {
  const tar = `${layout}.tar`;
  mkdirSync(dirname(layout), { recursive: true });
  await run("tar", ["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@1600000000", "-C", rootfs, "-cf", tar, "."]);
  const layer = await gzipLayer(tar);
  await writeLayout(layout, [layer], config);
  rmSync(tar);
  rmSync(layer.file);
  return layout;
}

/** What the Debian image was made of; its name in the cache changes with it. */
const debianRecipe = { suite: "bookworm", packages: ["python3", "python3-pip"], form: 1 } as const;

/**
 * A Debian minbase root with python3 and pip as one gzip layer, made with mmdebstrap from the machine's own package sources.
 * Made once: `cacheDirectory` keeps it. `progress` is told every step.
 */
export async function debianPythonImage(cacheDirectory: string, progress: (step: string) => void = () => {}): Promise<string> {
  const layout = join(cacheDirectory, `debian-${debianRecipe.suite}-python-${debianRecipe.form}`);
  if (existsSync(join(layout, "index.json"))) return layout;
  mkdirSync(cacheDirectory, { recursive: true });
  const partial = `${layout}.partial-${process.pid}`;
  const tar = `${partial}.tar`;
  try {
    progress(`making a Debian root with ${debianRecipe.packages.join(", ")} (mmdebstrap, about half a minute)`);
    // The package archive and index caches stay in, as in many real images: they are never read, and lazy loading never fetches them.
    await run(
      "mmdebstrap",
      [
        "--quiet",
        "--variant=minbase",
        "--skip=cleanup/apt",
        `--include=${debianRecipe.packages.join(",")}`,
        '--customize-hook=rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/srcpkgcache.bin',
        debianRecipe.suite,
        tar,
      ],
      { deadlineMs: 900_000 },
    );
    progress("compressing it into one gzip layer");
    const layer = await gzipLayer(tar);
    await writeLayout(partial, [layer], { cmd: ["python3"] });
    rmSync(layer.file);
    renameSync(partial, layout);
    return layout;
  } finally {
    rmSync(tar, { force: true });
    rmSync(`${tar}.gz`, { force: true });
    rmSync(partial, { recursive: true, force: true });
  }
}

/** Pushes the one image of a layout folder to a plain-HTTP registry; blobs that are there are not sent again. */
export async function pushLayout(layout: string, reference: string): Promise<Descriptor> {
  const [, host = "", repository = "", tag = ""] = /^([^/]+)\/(.+):([^:/]+)$/.exec(reference) ?? [];
  const index = JSON.parse(readFileSync(join(layout, "index.json"), "utf8")) as { manifests: Descriptor[] };
  const descriptor = index.manifests[0] as Descriptor;
  const blob = (digest: string): string => join(layout, "blobs", digest.replace(":", "/"));
  const manifest = JSON.parse(readFileSync(blob(descriptor.digest), "utf8")) as { config: Descriptor; layers: Descriptor[] };
  for (const part of [...manifest.layers, manifest.config])
    await pushBlob(`http://${host}/v2/${repository}`, part.digest, blob(part.digest));
  const answer = await fetch(`http://${host}/v2/${repository}/manifests/${tag}`, {
    method: "PUT",
    headers: { "content-type": descriptor.mediaType },
    body: readFileSync(blob(descriptor.digest)),
  });
  if (!answer.ok) throw new Error(`push of ${reference}: manifest: ${answer.status} ${await answer.text()}`);
  return descriptor;
}

async function pushBlob(repositoryUrl: string, digest: string, file: string): Promise<void> {
  const present = await fetch(`${repositoryUrl}/blobs/${digest}`, { method: "HEAD" });
  if (present.ok) return;
  const begun = await fetch(`${repositoryUrl}/blobs/uploads/`, { method: "POST" });
  const location = begun.headers.get("location");
  if (begun.status !== 202 || location === null) throw new Error(`push of ${basename(file)}: ${begun.status} ${await begun.text()}`);
  const target = new URL(location, repositoryUrl);
  target.searchParams.set("digest", digest);
  const answer = await fetch(target, {
    method: "PUT",
    headers: { "content-type": "application/octet-stream" },
    body: await openAsBlob(file),
  });
  if (!answer.ok) throw new Error(`push of ${basename(file)}: ${answer.status} ${await answer.text()}`);
}

export async function digestFile(file: string): Promise<{ digest: string; size: number }> {
  const hash = createHash("sha256");
  for await (const part of createReadStream(file, { highWaterMark: 1 << 20 })) hash.update(part as Uint8Array);
  return { digest: `sha256:${hash.digest("hex")}`, size: statSync(file).size };
}
