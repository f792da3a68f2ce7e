import { createHash } from "node:crypto";
import * as grpc from "@grpc/grpc-js";
import { messageOf } from "../errors.ts";
import { containerdKey, LABELS } from "../layers/labels.ts";
import { containerdDeadlineMs, manifestBytesMax } from "../limits.ts";
import type { Log } from "../log.ts";
import { messageCodec } from "../service/proto.ts";
import type { Snapshot } from "../store/snapshots.ts";

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
  readonly layers?: readonly { readonly annotations?: Readonly<Record<string, string>> }[];
}

/**
 * The name of an image in containerd whose topmost layer is this bootstrap snapshot; undefined when containerd is not there or has none.
 * `ctr` 1.6 puts no image reference on layers, so this is how its images are recognised: by the chain id.
 */
export async function findImage(address: string, bootstrap: Snapshot, log: Log): Promise<string | undefined> {
  const key = containerdKey(bootstrap.key);
  const chainId = bootstrap.labels[LABELS.target] ?? key?.name;
  if (address === "" || key === undefined || chainId === undefined) return undefined;
  const client = new grpc.Client(`unix:${address}`, grpc.credentials.createInsecure(), {
    "grpc.default_authority": "localhost",
    "grpc.max_receive_message_length": -1,
  });
  const calls = new Calls(client, key.namespace);
  try {
    for (const image of await calls.images()) {
      try {
        if (await hasChain(calls, image.target, chainId)) return image.name;
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

async function hasChain(calls: Calls, target: Descriptor, chainId: string): Promise<boolean> {
  const manifest = await calls.json<Manifest>(target);
  if (manifest.manifests !== undefined) {
    for (const entry of manifest.manifests) {
      // Manifests of other platforms are not in the content store.
      if (await hasChain(calls, entry, chainId).catch(() => false)) return true;
    }
    return false;
  }
  const top = manifest.layers?.at(-1);
  if (manifest.config === undefined || top?.annotations === undefined || !(LABELS.nydusBootstrap in top.annotations)) return false;
  const config = await calls.json<{ rootfs?: { diff_ids?: readonly string[] } }>(manifest.config);
  return chainIdOf(config.rootfs?.diff_ids ?? []) === chainId;
}

/** OCI chain id: the digest that names a layer with all below it. */
export function chainIdOf(diffIds: readonly string[]): string | undefined {
  if (diffIds.length === 0) return undefined;
  return diffIds.reduce((chain, diffId) => `sha256:${createHash("sha256").update(`${chain} ${diffId}`).digest("hex")}`);
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
