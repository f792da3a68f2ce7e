import { createHash } from "node:crypto";
import * as grpc from "@grpc/grpc-js";
import { messageOf } from "../errors.ts";
import { containerdKey, LABELS } from "../layers/labels.ts";
import { containerdDeadlineMs, manifestBytesMax } from "../limits.ts";
import type { Log } from "../log.ts";
import { messageCodec } from "../service/proto.ts";
import type { Snapshot } from "../store/snapshots.ts";
import { LookedUp } from "./looked-up.ts";

// The part of containerd's images and content services that is needed to find an image by its layers. Source: containerd's public API.
const PROTO = `
syntax = "proto3";
package nydus.containerd;
message Descriptor { string media_type = 1; string digest = 2; int64 size = 3; }
message Image { string name = 1; Descriptor target = 3; }
message ListImagesRequest { repeated string filters = 1; }
message ListImagesResponse { repeated Image images = 1; }
message ReadRequest { string digest = 1; int64 offset = 2; int64 size = 3; }
message ReadResponse { int64 offset = 1; bytes data = 2; }
`;
const codec = messageCodec(PROTO, "nydus.containerd");

interface Descriptor {
  readonly digest: string;
  readonly size: number;
}

interface Manifest {
  readonly config?: Descriptor;
  readonly manifests?: readonly Descriptor[];
  readonly layers?: readonly { readonly digest: string; readonly annotations?: Readonly<Record<string, string>> }[];
}

/** A layer of an image in containerd. */
export interface FoundLayer {
  readonly image: string;
  readonly digest: string;
  readonly annotations: Readonly<Record<string, string>>;
}

/**
 * The name of an image in containerd whose topmost layer is this bootstrap snapshot; undefined when containerd is not there or has none.
 * Clients other than CRI put no image reference on layers, so this is how their images are recognised: by the chain id.
 */
export async function findImage(address: string, bootstrap: Snapshot, log: Log, manifests = new Manifests()): Promise<string | undefined> {
  const key = containerdKey(bootstrap.key);
  const chainId = bootstrap.labels[LABELS.target] ?? key?.name;
  if (key === undefined || chainId === undefined) return undefined;
  const found = await search({ address, namespace: key.namespace, manifests, log }, (layers) => {
    const top = layers.at(-1);
    return top?.chainId === chainId && LABELS.nydusBootstrap in top.annotations ? top : undefined;
  });
  return found?.image;
}

/**
 * The layer that a client is about to unpack into a snapshot with this key, if containerd has an image with it. Clients that apply layers one by
 * one (`ctr images pull` of containerd 1.6, `Image.Unpack`) say nothing about a layer but its chain id, in the key `extract-… CHAINID`.
 * Source: spec/containerd.md 3.4
 */
export async function findLayer(
  address: string,
  snapshotKey: string,
  log: Log,
  manifests = new Manifests(),
): Promise<FoundLayer | undefined> {
  const key = containerdKey(snapshotKey);
  const chainId = /^extract-\S+ (sha256:[0-9a-f]{64})$/.exec(key?.name ?? "")?.[1];
  if (key === undefined || chainId === undefined) return undefined;
  return search({ address, namespace: key.namespace, manifests, log }, (layers) => layers.find((layer) => layer.chainId === chainId));
}

type Layers = readonly { readonly chainId: string; readonly digest: string; readonly annotations: Readonly<Record<string, string>> }[];

type Pick = (layers: Layers) => Layers[number] | undefined;

/** What a manifest leads to: those of an index, or the layers of a nydus image; neither for any other image. */
interface Contents {
  readonly manifests?: readonly Descriptor[];
  readonly layers?: Layers;
}

/** Manifests that were read, by namespace and digest: pass the same one to calls that follow each other. */
export class Manifests extends LookedUp<Contents> {}

interface Where {
  readonly address: string;
  readonly namespace: string;
  readonly manifests: Manifests;
  readonly log: Log;
}

/** Looks at the layers of every image of a namespace until `pick` takes one. Without containerd, nothing is found. */
async function search({ address, namespace, manifests, log }: Where, pick: Pick): Promise<FoundLayer | undefined> {
  if (address === "") return undefined;
  const client = new grpc.Client(`unix:${address}`, grpc.credentials.createInsecure(), {
    "grpc.default_authority": "localhost",
    "grpc.max_receive_message_length": -1,
  });
  const calls = new Calls(client, namespace);
  const contentsOf = (target: Descriptor): Promise<Contents> =>
    manifests.get(`${namespace} ${target.digest}`, () => readContents(calls, target));
  try {
    for (const image of await calls.images()) {
      try {
        const found = await searchImage(contentsOf, image.target, pick);
        if (found !== undefined) return { image: image.name, digest: found.digest, annotations: found.annotations };
      } catch (error) {
        // An image of which not everything is there; another may match.
        log.debug({ image: image.name, error: messageOf(error) }, "image could not be looked at");
      }
    }
  } catch (error) {
    log.warn({ address, error: messageOf(error) }, "containerd could not be asked for images");
  } finally {
    client.close();
  }
  return undefined;
}

async function searchImage(
  contentsOf: (target: Descriptor) => Promise<Contents>,
  target: Descriptor,
  pick: Pick,
): Promise<Layers[number] | undefined> {
  const { manifests = [], layers } = await contentsOf(target);
  if (layers !== undefined) return pick(layers);
  for (const entry of manifests) {
    // Manifests of other platforms are not in the content store.
    const found = await searchImage(contentsOf, entry, pick).catch(() => undefined);
    if (found !== undefined) return found;
  }
  return undefined;
}

async function readContents(calls: Calls, target: Descriptor): Promise<Contents> {
  const { manifests, config, layers = [] } = await calls.json<Manifest>(target);
  if (manifests !== undefined) return { manifests };
  // Only nydus images are looked for; the configs of others need not be read.
  if (config === undefined || !layers.some(({ annotations = {} }) => LABELS.nydusBootstrap in annotations)) return {};
  const diffIds = (await calls.json<{ rootfs?: { diff_ids?: readonly string[] } }>(config)).rootfs?.diff_ids ?? [];
  if (diffIds.length !== layers.length) return {};
  let chainId: string | undefined;
  return {
    layers: layers.map(({ digest, annotations = {} }, index) => {
      const diffId = diffIds[index] as string;
      chainId = chainId === undefined ? diffId : chainIdOf(chainId, diffId);
      return { chainId, digest, annotations };
    }),
  };
}

/** OCI chain id of a layer: the digest that names it with all below it. That of the lowest layer is its diff id. */
export function chainIdOf(below: string, diffId: string): string {
  return `sha256:${createHash("sha256").update(`${below} ${diffId}`).digest("hex")}`;
}

class Calls {
  readonly #client: grpc.Client;
  readonly #metadata = new grpc.Metadata();
  readonly #deadline = { deadline: Date.now() + containerdDeadlineMs };

  constructor(client: grpc.Client, namespace: string) {
    this.#client = client;
    this.#metadata.set("containerd-namespace", namespace);
  }

  images(): Promise<{ name: string; target: Descriptor }[]> {
    return new Promise((resolve, reject) => {
      this.#client.makeUnaryRequest(
        "/containerd.services.images.v1.Images/List",
        (request: object) => codec.encode("ListImagesRequest", request),
        (bytes) => codec.decode("ListImagesResponse", bytes) as { images: { name: string; target: Descriptor | null }[] },
        {},
        this.#metadata,
        this.#deadline,
        (error, reply) => {
          if (error !== null) reject(error);
          else resolve((reply?.images ?? []).flatMap(({ name, target }) => (target === null ? [] : [{ name, target }])));
        },
      );
    });
  }

  async json<T>(descriptor: Descriptor): Promise<T> {
    const stream = this.#client.makeServerStreamRequest(
      "/containerd.services.content.v1.Content/Read",
      (request: object) => codec.encode("ReadRequest", request),
      (bytes) => codec.decode("ReadResponse", bytes) as { data: Buffer },
      { digest: descriptor.digest },
      this.#metadata,
      this.#deadline,
    );
    const parts: Buffer[] = [];
    let size = 0;
    for await (const { data } of stream as AsyncIterable<{ data: Buffer }>) {
      size += data.length;
      if (size > manifestBytesMax) throw new Error(`${descriptor.digest} is larger than ${manifestBytesMax} bytes`);
      parts.push(data);
    }
    return JSON.parse(Buffer.concat(parts).toString("utf8")) as T;
  }
}
