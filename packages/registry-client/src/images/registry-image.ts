import { RegistryClient, type RegistryClientOptions } from "../client.ts";
import type { Descriptor } from "../descriptor.ts";
import { RegistryError } from "../errors.ts";
import { DEADLINE_DEFAULT_MS } from "../limits.ts";
import type { Reference } from "../reference.ts";
import type { BlobBytes, ImageSource, ImageTarget, WriteOptions } from "./image.ts";
import { reopenable } from "./image.ts";

export interface RegistryImageOptions extends Omit<RegistryClientOptions, "host"> {
  /** For each exchange; a blob stream may take longer, silence in it may not. */
  readonly deadlineMs?: number;
  /** Share connections and tokens with others; the image then does not close it. */
  readonly client?: RegistryClient;
  readonly signal?: AbortSignal;
}

/** An image in a registry, to read or to write. */
export class RegistryImage implements ImageSource, ImageTarget {
  readonly name: string;
  readonly reference: Reference;
  readonly client: RegistryClient;
  readonly #ownsClient: boolean;
  readonly #call: { readonly deadlineMs: number; readonly signal?: AbortSignal };

  constructor(reference: Reference, options: RegistryImageOptions = {}) {
    const { client, deadlineMs, signal, ...rest } = options;
    this.reference = reference;
    this.name = reference.normalized;
    this.#ownsClient = client === undefined;
    this.client = client ?? new RegistryClient({ ...rest, host: reference.host });
    this.#call = { deadlineMs: deadlineMs ?? DEADLINE_DEFAULT_MS, ...(signal === undefined ? {} : { signal }) };
  }

  resolve(): Promise<Descriptor> {
    return this.client.resolve(this.reference.repository, this.reference.digest ?? this.reference.tag ?? "latest", this.#call);
  }

  readManifest(descriptor: Descriptor): Promise<Uint8Array> {
    return this.client.manifest(this.reference.repository, descriptor, this.#call);
  }

  openBlob(descriptor: Descriptor, options: { offset?: number; signal?: AbortSignal } = {}): AsyncIterable<Uint8Array> {
    const signal = this.#signal(options.signal);
    return this.client.blobStream(this.reference.repository, descriptor.digest, {
      openDeadlineMs: this.#call.deadlineMs,
      size: descriptor.size,
      ...(options.offset === undefined ? {} : { offset: options.offset }),
      ...(signal === undefined ? {} : { signal }),
    });
  }

  async hasBlob(digest: string): Promise<boolean> {
    return (await this.client.blobSize(this.reference.repository, digest, this.#call)) !== undefined;
  }

  async writeBlob(descriptor: Descriptor, bytes: BlobBytes, options: WriteOptions = {}): Promise<boolean> {
    const pushed = await this.client.pushBlob(this.reference.repository, reopenable(bytes), {
      digest: descriptor.digest,
      size: descriptor.size,
      ...this.#push(options),
    });
    return pushed.uploaded;
  }

  async uploadBlob(mediaType: string, bytes: BlobBytes, options: WriteOptions = {}): Promise<Descriptor> {
    const { digest, size } = await this.client.pushBlob(this.reference.repository, reopenable(bytes), this.#push(options));
    return { mediaType, digest, size };
  }

  async mountBlob(descriptor: Descriptor, from: ImageSource): Promise<boolean> {
    if (!(from instanceof RegistryImage) || from.reference.host !== this.reference.host) return false;
    if (from.reference.repository === this.reference.repository) return this.hasBlob(descriptor.digest);
    return this.client.mountBlob(this.reference.repository, descriptor.digest, from.reference.repository, this.#call);
  }

  writeManifest(bytes: Uint8Array, mediaType: string, tagged: boolean): Promise<Descriptor> {
    if (tagged && this.reference.tag === undefined) {
      throw new RegistryError("REGISTRY_REFERENCE", `${this.name} has a digest but no tag to write to`, {
        hint: "name the target HOST/REPOSITORY:TAG",
      });
    }
    return this.client.pushManifest(this.reference.repository, bytes, mediaType, tagged ? this.reference.tag : undefined, this.#call);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#ownsClient) await this.client[Symbol.asyncDispose]();
  }

  #signal(signal: AbortSignal | undefined): AbortSignal | undefined {
    if (signal === undefined || this.#call.signal === undefined) return signal ?? this.#call.signal;
    return AbortSignal.any([signal, this.#call.signal]);
  }

  #push(options: WriteOptions): WriteOptions & { stepDeadlineMs: number } {
    const signal = this.#signal(options.signal);
    return {
      stepDeadlineMs: this.#call.deadlineMs,
      ...(signal === undefined ? {} : { signal }),
      ...(options.onProgress === undefined ? {} : { onProgress: options.onProgress }),
      ...(options.pieceBytes === undefined ? {} : { pieceBytes: options.pieceBytes }),
    };
  }
}
