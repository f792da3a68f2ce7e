import { createHash } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { digestFile, type GoldenCase, gzipLayer, type Layer, readBootstrap, run, writeLayout } from "@nydus-ts/testkit";

/**
 * The image of a golden case as a registry holds it (images.md, section 2): its data blobs in the order of the build's output, then the
 * bootstrap in a gzip layer. The bytes of blobs and bootstrap are the original tool's.
 */
export async function goldenImage(entry: GoldenCase, blobIds: readonly string[], directory: string): Promise<string> {
  const blobs: Layer[] = [];
  for (const id of blobIds) {
    const file = join(entry.blobDirectory as string, id);
    const content = await digestFile(file);
    const annotations = { "containerd.io/snapshot/nydus-blob": "true" };
    blobs.push({
      file,
      descriptor: { mediaType: "application/vnd.oci.image.layer.nydus.blob.v1", ...content, annotations },
      diffId: content.digest,
    });
  }
  const root = join(directory, "bootstrap");
  mkdirSync(join(root, "image"), { recursive: true });
  writeFileSync(join(root, "image/image.boot"), readBootstrap(entry), { mode: 0o444 });
  const tar = join(directory, "bootstrap.tar");
  await run("tar", [
    "--format=ustar",
    "--owner=0",
    "--group=0",
    "--numeric-owner",
    "--mtime=@0",
    "-C",
    root,
    "-cf",
    tar,
    "--no-recursion",
    "image",
    "image/image.boot",
  ]);
  const layer = await gzipLayer(tar);
  const annotations = {
    "containerd.io/snapshot/nydus-bootstrap": "true",
    "containerd.io/snapshot/nydus-fs-version": String(entry.version),
  };
  const bootstrap: Layer = { ...layer, descriptor: { ...layer.descriptor, annotations } };
  return await writeLayout(join(directory, "layout"), [...blobs, bootstrap], { cmd: ["/none"] });
}

export const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");
