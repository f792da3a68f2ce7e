/** A registry in the process, and what the tests of conversions look at in it. */
import { execFileSync } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import { TestRegistry } from "@nydus-ts/registry-client/testing";
import { afterEach, expect } from "vitest";
import { layerTar, TemporaryDirectory } from "./support.ts";

const undo: Array<() => Promise<void> | void> = [];
afterEach(async () => {
  for (const step of undo.splice(0).reverse()) await step();
});

export async function startRegistry(): Promise<TestRegistry> {
  const registry = await TestRegistry.start();
  undo.push(() => registry[Symbol.asyncDispose]());
  return registry;
}

export function temporaryDirectory(): TemporaryDirectory {
  const directory = new TemporaryDirectory();
  undo.push(() => directory[Symbol.dispose]());
  return directory;
}

export const base = layerTar({ "etc/": "", "etc/conf": "v1\n", "usr/": "", "usr/big": randomBytes(300_000), gone: "x" });
export const upper = layerTar({ "etc/conf": "version 2\n", ".wh.gone": "", "new/": "", "new/file": "n" });
export const onlyDirectories = layerTar({ "var/": "", "var/run/": "" });

export interface Pulled {
  manifest: {
    config: { digest: string; mediaType: string };
    layers: Array<{ mediaType: string; digest: string; size: number; annotations: Record<string, string> }>;
    annotations: Record<string, string>;
  };
  config: Record<string, unknown> & { rootfs: { diff_ids: string[] }; history: unknown[] };
  bootstrapTar: Buffer;
}

export async function fetchJson(registry: TestRegistry, repository: string, reference: string): Promise<Buffer> {
  const response = await fetch(`http://${registry.host}/v2/${repository}/manifests/${reference}`, {
    headers: { accept: "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json" },
  });
  expect(response.status).toBe(200);
  return Buffer.from(await response.arrayBuffer());
}

export async function fetchBlob(registry: TestRegistry, repository: string, digest: string): Promise<Buffer> {
  const response = await fetch(`http://${registry.host}/v2/${repository}/blobs/${digest}`);
  expect(response.status).toBe(200);
  return Buffer.from(await response.arrayBuffer());
}

export async function pull(registry: TestRegistry, repository: string, reference: string): Promise<Pulled> {
  const manifest = JSON.parse((await fetchJson(registry, repository, reference)).toString());
  const config = JSON.parse((await fetchBlob(registry, repository, manifest.config.digest)).toString());
  return { manifest, config, bootstrapTar: gunzipSync(await fetchBlob(registry, repository, manifest.layers.at(-1).digest)) };
}

export const sha256 = (bytes: Uint8Array) => `sha256:${createHash("sha256").update(bytes).digest("hex")}`;

export function unpack(bootstrapTar: Buffer): { names: string[]; directory: TemporaryDirectory } {
  const directory = temporaryDirectory();
  writeFileSync(directory.join("layer.tar"), bootstrapTar);
  execFileSync("tar", ["-xf", directory.join("layer.tar"), "-C", directory.path]);
  return {
    directory,
    names: execFileSync("tar", ["-tf", directory.join("layer.tar")], { encoding: "utf8" })
      .trim()
      .split("\n"),
  };
}

/** An OCI layout with one image of these layers, tagged v1; with platforms, an index with one image for each. */
export function writeLayout(directory: string, layers: readonly Buffer[], platforms?: readonly string[]): void {
  mkdirSync(`${directory}/blobs/sha256`, { recursive: true });
  const put = (bytes: Buffer) => {
    writeFileSync(`${directory}/blobs/sha256/${sha256(bytes).slice(7)}`, bytes);
    return { digest: sha256(bytes), size: bytes.length };
  };
  const mediaType = "application/vnd.oci.image.manifest.v1+json";
  const image = (architecture: string) => ({
    mediaType,
    ...put(
      Buffer.from(
        JSON.stringify({
          schemaVersion: 2,
          mediaType,
          config: {
            mediaType: "application/vnd.oci.image.config.v1+json",
            ...put(Buffer.from(JSON.stringify({ architecture, os: "linux", rootfs: { type: "layers", diff_ids: [] } }))),
          },
          layers: layers.map((layer) => ({ mediaType: "application/vnd.oci.image.layer.v1.tar+gzip", ...put(layer) })),
        }),
      ),
    ),
  });
  const indexType = "application/vnd.oci.image.index.v1+json";
  const attestation = {
    ...image("unknown"),
    platform: { os: "unknown", architecture: "unknown" },
    annotations: { "vnd.docker.reference.type": "attestation-manifest" },
  };
  const top = platforms
    ? {
        mediaType: indexType,
        ...put(
          Buffer.from(
            JSON.stringify({
              schemaVersion: 2,
              mediaType: indexType,
              manifests: [
                ...platforms.map((architecture) => ({ ...image(architecture), platform: { os: "linux", architecture } })),
                attestation,
              ],
            }),
          ),
        ),
      }
    : image("amd64");
  writeFileSync(`${directory}/oci-layout`, '{"imageLayoutVersion":"1.0.0"}');
  writeFileSync(
    `${directory}/index.json`,
    JSON.stringify({ schemaVersion: 2, manifests: [{ ...top, annotations: { "org.opencontainers.image.ref.name": "v1" } }] }),
  );
}
