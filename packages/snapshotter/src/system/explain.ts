import { lstatSync } from "node:fs";
import { join } from "node:path";
import type { Explanation } from "@nydus-ts/nydus-api";
import type { Layout } from "../config/layout.ts";
import { chainIdOf } from "../containerd/image-lookup.ts";
import { SnapshotterError } from "../errors.ts";
import { readBootstrap } from "../instances/bootstrap.ts";
import { blobIdOf as blobIdFromDigest } from "../instances/cache.ts";
import { containerdKey, imageRefOf, LABELS } from "../layers/labels.ts";
import { reasonOf } from "../layers/layer.ts";
import type { InstanceStore } from "../store/instances.ts";
import type { Snapshot, SnapshotStore } from "../store/snapshots.ts";
import { measureUsage } from "../store/usage.ts";

export interface ExplainSources {
  readonly snapshots: SnapshotStore;
  readonly instances: InstanceStore;
  readonly layout: Layout;
}

type Layer = Explanation["layers"][number];

/**
 * How an image or a container is served. Asked in the words people have: an image's reference, the key of a snapshot, or its last part, which is a
 * container's id or a chain id.
 *
 * @throws SnapshotterError SNAPSHOT_NOT_FOUND, naming the images there are
 * Source: users.md row 40
 */
export async function explain(name: string, sources: ExplainSources): Promise<Explanation> {
  const { snapshots, instances } = sources;
  const top = topOf(name, sources);
  const chain = snapshots.chain(top.id);
  const bootstrap = chain.find((snapshot) => snapshot.layer === "nydus-bootstrap");
  const instance = bootstrap && instances.instance(String(bootstrap.id));
  const labelled = chain.map((snapshot) => imageRefOf(snapshot.labels)).find((reference) => reference !== undefined);
  const sizes = bootstrap === undefined ? new Map<string, number>() : await blobSizes(bootstrap, sources.layout);
  const layers: Layer[] = [];
  // A container's own snapshot is no layer of its image.
  for (const snapshot of chain.filter(({ kind }) => kind === "committed").reverse()) {
    const parent = snapshot.parentId === undefined ? undefined : snapshots.byId(snapshot.parentId);
    layers.push(await explainLayer(snapshot, parent, sizes, sources.layout));
  }
  return {
    snapshot: top.key,
    kind: top.kind,
    image: (instance?.image || labelled) ?? null,
    mountpoint: instance === undefined || instance.broken !== undefined ? null : instance.mountpoint,
    broken: instance?.broken ?? null,
    layers,
  };
}

function topOf(name: string, { snapshots, instances }: ExplainSources): Snapshot {
  const all = snapshots.all();
  const mounted = new Map(instances.instances().map((record) => [record.snapshotId, record.image]));
  const references = (snapshot: Snapshot): (string | undefined)[] => [imageRefOf(snapshot.labels), mounted.get(snapshot.id)];
  const named = all.findLast(({ key }) => key === name || containerdKey(key)?.name === name);
  if (named !== undefined) return named;
  // The image's topmost layer has the highest id: layers are made from the lowest up.
  const top = all.findLast((snapshot) => snapshot.kind === "committed" && references(snapshot).includes(name));
  if (top !== undefined) return top;
  const known = [...new Set(all.flatMap(references).filter((reference) => reference !== undefined && reference !== ""))].toSorted();
  throw new SnapshotterError(
    "SNAPSHOT_NOT_FOUND",
    `${name} is neither an image nor a snapshot here; images with a name: ${known.slice(0, 20).join(", ") || "none"}${known.length > 20 ? ", …" : ""}`,
  );
}

async function explainLayer(
  snapshot: Snapshot,
  parent: Snapshot | undefined,
  sizes: ReadonlyMap<string, number>,
  layout: Layout,
): Promise<Layer> {
  const { layer, labels } = snapshot;
  const blobId = layer === "nydus-blob" ? blobIdOf(snapshot, parent, sizes.keys()) : undefined;
  const digest = labels[LABELS.layerDigest] ?? (blobId === undefined ? null : `sha256:${blobId}`);
  const about = { snapshot: snapshot.key, digest, format: layer, reason: reasonOf(layer, labels) };
  if (layer !== "nydus-blob") {
    const { size } = snapshot.usage ?? (await measureUsage(layout.fs(snapshot.id)));
    return { ...about, mode: layer === "ordinary" ? "overlay" : "lazy", bytesLocal: size, bytesTotal: size };
  }
  const bytesTotal = sizes.get(blobId ?? "") ?? null;
  return { ...about, mode: "lazy", bytesLocal: blobId === undefined ? null : cachedBytes(layout.cache, blobId, bytesTotal), bytesTotal };
}

/** Named by the layer's label; without one, by the chain id: the diff id of a data layer is its blob's id (spec/images.md 2.4). */
function blobIdOf(snapshot: Snapshot, parent: Snapshot | undefined, ids: Iterable<string>): string | undefined {
  const labelled = blobIdFromDigest(snapshot.labels[LABELS.layerDigest]);
  if (labelled !== undefined) return labelled;
  const below = parent?.labels[LABELS.target];
  return [...ids].find(
    (id) => (below === undefined ? `sha256:${id}` : chainIdOf(below, `sha256:${id}`)) === snapshot.labels[LABELS.target],
  );
}

/** Bytes that the disk holds of a blob's data (version 6 has a suffix, version 5 none); the last block may be more than the data. */
function cachedBytes(cache: string, blobId: string, total: number | null): number {
  const files = [".blob.data", ""].map((suffix) => lstatSync(join(cache, blobId + suffix), { throwIfNoEntry: false }));
  const allocated = files.reduce((sum, file) => sum + (file?.blocks ?? 0) * 512, 0);
  return total === null ? allocated : Math.min(allocated, total);
}

/** Sizes by blob id; none where the bootstrap is damaged, which is then what the instance says. */
async function blobSizes(bootstrap: Snapshot, layout: Layout): Promise<Map<string, number>> {
  try {
    const { blobs, uncompressedSizes } = await readBootstrap(layout.fs(bootstrap.id));
    return new Map(blobs.map((id, index) => [id, uncompressedSizes[index] as number]));
  } catch (error) {
    if (error instanceof SnapshotterError) return new Map();
    throw error;
  }
}
