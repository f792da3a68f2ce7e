// JSON and texts that come with images: manifests, indexes, configs with their annotations, lists of files, references, challenges.
import { NydusImageError } from "../../packages/nydus-image/src/errors.ts";
import {
  diffIdsOf,
  emptyLayerHistory,
  nydusHistory,
  ociAnnotations,
  platformOf,
  rewriteConfig,
} from "../../packages/nydus-image/src/convert/manifest.ts";
import { makeOciHalf } from "../../packages/nydus-image/src/convert/merged-index.ts";
import { selectImages } from "../../packages/nydus-image/src/convert/select.ts";
import { parsePrefetchFiles } from "../../packages/nydus-image/src/prefetch-files.ts";
import { parseChallenges } from "../../packages/registry-client/src/auth/challenge.ts";
import {
  credentialOfAuth,
  type Descriptor,
  type ImageSource,
  parseManifest,
  parseReference,
  RegistryError,
} from "@nydus-ts/registry-client";
import { mutateJson } from "../mutate.ts";
import type { Seed, Target } from "../target.ts";

const digest = (byte: string): string => `sha256:${byte.repeat(64)}`;
const prefix = "containerd.io/snapshot/";
const config = {
  architecture: "amd64",
  os: "linux",
  config: { Cmd: ["sh"], Image: digest("7"), Labels: { a: "b" } },
  container_config: { Image: digest("7") },
  rootfs: { type: "layers", diff_ids: [digest("1"), digest("2")] },
  history: [{ created_by: "RUN x" }, { created_by: "Nydus Converter", comment: "Nydus Bootstrap Layer" }],
};
const manifest = {
  schemaVersion: 2,
  mediaType: "application/vnd.oci.image.manifest.v1+json",
  config: { mediaType: "application/vnd.oci.image.config.v1+json", digest: digest("3"), size: 100 },
  layers: [
    {
      mediaType: "application/vnd.oci.image.layer.nydus.blob.v1",
      digest: digest("1"),
      size: 5,
      annotations: { [`${prefix}nydus-blob`]: "true" },
    },
    {
      mediaType: "application/vnd.oci.image.layer.v1.tar+gzip",
      digest: digest("2"),
      size: 5,
      annotations: { [`${prefix}nydus-bootstrap`]: "true", [`${prefix}nydus-fs-version`]: "6" },
    },
  ],
  annotations: { [`${prefix}nydus-source-digest`]: digest("4"), own: "kept" },
  subject: { mediaType: "application/vnd.oci.image.manifest.v1+json", digest: digest("4"), size: 9 },
};
const entry = { mediaType: manifest.mediaType, digest: digest("5"), size: 50 };
const index = {
  schemaVersion: 2,
  mediaType: "application/vnd.oci.image.index.v1+json",
  manifests: [
    { ...entry, platform: { os: "linux", architecture: "amd64" } },
    { ...entry, platform: { os: "linux", architecture: "arm64", variant: "v8", "os.features": ["nydus.remoteimage.v1"] } },
    { ...entry, artifactType: "application/vnd.nydus.image.manifest.v1+json", annotations: { "vnd.docker.reference.type": "attestation" } },
  ],
};
const list = { version: "v1", files: [{ path: "/a", ranges: [[0, 4096]] }, { path: "/b", ranges: null }, { path: "c" }] };

export const target: Target = {
  name: "documents",
  seeds: () => [
    json("manifest", manifest, readManifest),
    json("index", index, readIndex),
    json("config", config, readConfig),
    json("list of files", list, (bytes) => void parsePrefetchFiles(text(bytes))),
    {
      name: "reference",
      bytes: Buffer.from("registry.example:5000/group/app:v1@" + digest("6")),
      read: (bytes) => void parseReference(text(bytes)),
    },
    {
      name: "challenge",
      bytes: Buffer.from('Bearer realm="https://auth.example/token",service="registry",scope="repository:app:pull", Basic realm=x'),
      read: (bytes) => void parseChallenges([text(bytes)]),
    },
    { name: "auth", bytes: Buffer.from("dXNlcjpwYXNz"), read: (bytes) => void credentialOfAuth(text(bytes)) },
  ],
  accepts: (error) => error instanceof RegistryError || error instanceof NydusImageError,
};

function readManifest(bytes: Uint8Array): void {
  const parsed = parseManifest(bytes);
  if (parsed.kind !== "manifest") return;
  for (const { digest, size } of [parsed.value.config, ...parsed.value.layers])
    if (!/^sha(256|512):[0-9a-f]+$/.test(digest) || !(size >= 0)) throw new Error(`${digest} of ${size} bytes was let through`);
  ociAnnotations(parsed.value);
  const half = makeOciHalf({ ...entry, annotations: {} }, bytes, Buffer.from(JSON.stringify(config)));
  if (parseManifest(half.manifest.bytes).kind !== "manifest") throw new Error("the half of a manifest is none");
}

/** Every platform, one that is there, and one that is not, of the OCI and of the nydus half. */
async function readIndex(bytes: Uint8Array): Promise<void> {
  const top = { ...entry, mediaType: index.mediaType };
  const images = Buffer.from(JSON.stringify(manifest));
  const source = {
    name: "fuzz",
    resolve: async () => top,
    readManifest: async (of: Descriptor) => (of === top ? bytes : images),
  } as unknown as ImageSource;
  for (const kind of ["oci", "nydus", "all"] as const) {
    for (const platforms of [
      undefined,
      [{ os: "linux", architecture: "amd64" }],
      [{ os: "linux", architecture: "arm64", variant: "v8" }],
    ]) {
      const { images: selected } = await selectImages(source, { platforms, kind });
      if (selected.length === 0) throw new Error("nothing was selected, and nothing said");
    }
  }
}

function readConfig(bytes: Uint8Array): void {
  const ids = diffIdsOf(bytes);
  for (const history of [nydusHistory(false), emptyLayerHistory]) {
    const again = rewriteConfig(bytes, [...ids, digest("8")], history);
    if (diffIdsOf(again).length !== ids.length + 1) throw new Error("a diff ID was lost");
  }
  platformOf(bytes);
}

const text = (bytes: Uint8Array): string => Buffer.from(bytes).toString();

function json(name: string, value: unknown, read: Seed["read"]): Seed {
  return { name, bytes: Buffer.from(JSON.stringify(value)), read, mutate: mutateJson };
}
