import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type BlobBackend, localfsBackend } from "@nydus-ts/chunk-store";
import { blobBackendSuite, type OpenedBackend } from "@nydus-ts/chunk-store/testing";
import { parseMirrors } from "@nydus-ts/mirror-config";
import {
  nydusdObjectStoreOptions,
  objectStoreBackend,
  type RegistryBackendOptions,
  registryBackend,
  staticCredentials,
} from "@nydus-ts/registry-client";
import { TestRegistry, type TestRegistryOptions } from "@nydus-ts/registry-client/testing";
import { type ObjectFault, TestObjectStore } from "@nydus-ts/testkit";
import { AlignedBackend } from "../src/images/aligned-backend.ts";
import { SwitchingBackend } from "../src/images/switching-backend.ts";
import { MeteredBackend } from "../src/metrics/metered-backend.ts";

const credentials = staticCredentials({ kind: "basic", username: "alice", password: "s3cret" }, { source: "the test" });
const bearer: TestRegistryOptions = { auth: { kind: "bearer", username: "alice", password: "s3cret" } };

interface World {
  readonly registry: TestRegistry;
  /** A second registry in front of it. */
  readonly mirror: TestRegistry;
}

/** A registry with the blob, an empty one to be its mirror, and a back end over them. */
async function overRegistry(
  blob: Uint8Array,
  options: Partial<RegistryBackendOptions> = {},
  prepare: (world: World) => Partial<RegistryBackendOptions> | undefined = () => undefined,
): Promise<OpenedBackend & { readonly backend: BlobBackend }> {
  const world = { registry: await TestRegistry.start(bearer), mirror: await TestRegistry.start() };
  world.registry.putBlob(blob, "app");
  const more = prepare(world) ?? {};
  const backend = await registryBackend({ host: world.registry.host, repository: "app", credentials, ...options, ...more });
  const end = async (): Promise<void> => {
    await world.registry[Symbol.asyncDispose]();
    await world.mirror[Symbol.asyncDispose]();
  };
  return { backend, end };
}

const blobRequests = { path: /\/blobs\// };
const silent = (blob: Uint8Array): Promise<OpenedBackend> =>
  overRegistry(blob, {}, ({ registry }) => void registry.faults.add(blobRequests, { stallMs: Number.POSITIVE_INFINITY }));
const mirrorsOf = (mirror: TestRegistry): Partial<RegistryBackendOptions> => ({
  mirrors: parseMirrors([{ host: `http://${mirror.host}` }], { file: "test", key: "mirrors" }),
});

const registryForm = { kind: "registry", namesBlobs: true, owns: true } as const;

blobBackendSuite("a registry with tokens", { ...registryForm, open: (blob) => overRegistry(blob), openSilent: silent });

blobBackendSuite("a registry that refuses one request and cuts another", {
  ...registryForm,
  open: (blob) =>
    overRegistry(blob, {}, ({ registry }) => {
      registry.faults.add(blobRequests, { status: 503, times: 1 });
      registry.faults.add(blobRequests, { resetAfterBytes: 100, times: 1 });
    }),
});

blobBackendSuite("a registry that ignores Range", {
  ...registryForm,
  open: (blob) => overRegistry(blob, {}, ({ registry }) => void registry.faults.add(blobRequests, { ignoreRange: true })),
});

blobBackendSuite("a mirror that lacks the blob, before the registry", {
  ...registryForm,
  open: (blob) => overRegistry(blob, {}, ({ mirror }) => mirrorsOf(mirror)),
});

blobBackendSuite("a mirror that has it, before a registry that is broken", {
  ...registryForm,
  open: (blob) =>
    overRegistry(blob, {}, ({ registry, mirror }) => {
      mirror.putBlob(blob, "app");
      registry.faults.add({}, { status: 500 });
      return mirrorsOf(mirror);
    }),
});

/** A bucket with the blob, and a back end over it. */
async function overBucket(kind: "s3" | "oss", blob: Uint8Array, id: string, faults: readonly ObjectFault[] = []): Promise<OpenedBackend> {
  const key = { access_key_id: "key-id", access_key_secret: "key-secret" };
  const bucket = { bucket: "blobs", accessKeyId: key.access_key_id, accessKeySecret: key.access_key_secret };
  const store = await TestObjectStore.start({ kind, ...bucket });
  store.objects.set(`of/images/${id}`, Buffer.from(blob));
  const left = [...faults];
  store.fault = () => (left[0]?.silent ? left[0] : left.shift());
  const config = { endpoint: store.host, scheme: "http", bucket_name: "blobs", region: "us-east-1", object_prefix: "of/images/", ...key };
  const backend = objectStoreBackend(nydusdObjectStoreOptions(kind, config, { file: "test", key: "backend" }));
  return { backend, end: () => store[Symbol.asyncDispose]() };
}

for (const kind of ["s3", "oss"] as const) {
  // The original calls both `oss` in its metrics.
  const form = { kind: "oss", namesBlobs: true, owns: true } as const;
  blobBackendSuite(`a bucket of ${kind}`, {
    ...form,
    open: (blob, id) => overBucket(kind, blob, id),
    openSilent: (blob, id) => overBucket(kind, blob, id, [{ silent: true }]),
  });
  blobBackendSuite(`a bucket of ${kind} that is busy once and cuts an answer`, {
    ...form,
    open: (blob, id) => overBucket(kind, blob, id, [{ status: 503 }, { cutAfterBytes: 100 }]),
  });
}

async function overFolder(blob: Uint8Array, id: string, wrap: (inner: BlobBackend) => BlobBackend): Promise<OpenedBackend> {
  const folder = await mkdtemp(join(tmpdir(), "blob-backends-"));
  await writeFile(join(folder, id), blob);
  const inner = localfsBackend({ dir: folder });
  return {
    backend: wrap(inner),
    end: async () => {
      await inner[Symbol.asyncDispose]();
      await rm(folder, { recursive: true });
    },
  };
}

const metered = (inner: BlobBackend): MeteredBackend => new MeteredBackend(inner, () => undefined, undefined);
const switching = (...members: readonly BlobBackend[]): SwitchingBackend => {
  const backend = new SwitchingBackend();
  for (const member of members) backend.add(member);
  return backend;
};

blobBackendSuite("a metered folder", {
  kind: "localfs",
  namesBlobs: true,
  owns: true,
  open: (blob, id) => overFolder(blob, id, metered),
});

blobBackendSuite("a metered registry", {
  ...registryForm,
  open: async (blob) => wrapped(await overRegistry(blob), metered),
  openSilent: async (blob) => wrapped(await silent(blob), metered),
});

blobBackendSuite("the members of a shared blob, the first without it,", {
  kind: "localfs",
  namesBlobs: true,
  owns: false,
  open: (blob, id) => overFolder(blob, id, (inner) => switching(inner, localfsBackend({ dir: "/nonexistent" }))),
});

blobBackendSuite("a registry asked for whole blocks", {
  ...registryForm,
  owns: false,
  open: async (blob) => wrapped(await overRegistry(blob), (inner) => new AlignedBackend(inner, 65_536)),
  openSilent: async (blob) => wrapped(await silent(blob), (inner) => new AlignedBackend(inner, 65_536)),
});

blobBackendSuite("what the daemon stacks over a registry", {
  ...registryForm,
  owns: false,
  open: async (blob) => wrapped(await overRegistry(blob), (inner) => switching(metered(inner))),
  openSilent: async (blob) => wrapped(await silent(blob), (inner) => switching(metered(inner))),
});

/** A wrapper does not always close what it wraps, so the end does. */
function wrapped({ backend, end }: OpenedBackend, wrap: (inner: BlobBackend) => BlobBackend): OpenedBackend {
  return {
    backend: wrap(backend),
    end: async () => {
      await backend[Symbol.asyncDispose]();
      await end?.();
    },
  };
}
