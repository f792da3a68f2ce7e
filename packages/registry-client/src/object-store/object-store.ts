import type { HostConfig, HostHealth } from "@nydus-ts/mirror-config";
import { type Landing, type Range, rangeHeader, readRange } from "../blob-read.ts";
import type { CallOptions } from "../client.ts";
import type { ConnectionOptions } from "../connection-options.ts";
import { RegistryError } from "../errors.ts";
import type { Exchange } from "../exchange.ts";
import { Deadline } from "../http/deadline.ts";
import { Requester } from "../requester.ts";
import { encodeKey } from "./keys.ts";
import { type ObjectStoreAddress, type ObjectStorePlace, objectStorePlace } from "./place.ts";
import { type ObjectSource, type PutOptions, putObject } from "./upload.ts";

export interface ObjectStoreOptions extends ConnectionOptions {
  readonly address: ObjectStoreAddress;
  /** Before every key, without a separator. */
  readonly prefix: string;
  /** From nydusd's `mirrors`, through `parseMirrors`. They get requests as they were signed for the store. */
  readonly mirrors?: readonly HostConfig[];
  /** Wall clock, which requests are signed with. */
  readonly now?: () => number;
}

/** Objects of one bucket, or files of one server. Its errors are those of a registry: RegistryError with the same codes. */
export class ObjectStore {
  readonly kind: ObjectStoreAddress["kind"];
  /** As messages call it: `oss://bucket`. */
  readonly name: string;
  readonly #prefix: string;
  readonly #place: ObjectStorePlace;
  readonly #requester: Requester;

  /** Nothing is contacted. @throws RegistryError REGISTRY_CONFIG */
  constructor(options: ObjectStoreOptions) {
    const { address, prefix, proxy, mirrors = [], caFiles = [], skipVerify = false } = options;
    if (prefix.split("/").some((part) => part === "." || part === ".."))
      throw new RegistryError("REGISTRY_CONFIG", "object_prefix has a part `.` or `..`, which no URL can name");
    if (proxy !== undefined && mirrors.length > 0)
      throw new RegistryError("REGISTRY_CONFIG", "proxy and mirrors cannot be configured at the same time");
    const place = objectStorePlace(address, { caFiles, skipVerify }, options.now);
    const { origin, socketPath } = place;
    const asOrigin = (mirror: HostConfig): HostConfig => ({
      ...mirror,
      basePath: origin.basePath,
      caFiles: [...mirror.caFiles, ...caFiles],
      skipVerify: mirror.skipVerify || skipVerify,
    });
    this.kind = address.kind;
    this.name = place.name;
    this.#prefix = prefix;
    this.#place = place;
    this.#requester = new Requester({
      registryHost: place.name,
      hosts: [...mirrors.map(asOrigin), origin],
      signing: { signer: place.signer, origin },
      hints: place.hints,
      ...(proxy === undefined ? {} : { proxy }),
      ...(socketPath === undefined ? {} : { socketPath }),
      idleTimeoutMs: options.timeoutMs ?? 0,
      connectTimeoutMs: options.connectTimeoutMs ?? 0,
      retryLimit: options.retryLimit ?? 0,
      ...(options.traffic === undefined ? {} : { traffic: options.traffic }),
    });
  }

  get hosts(): readonly HostHealth[] {
    return this.#requester.health;
  }

  /** Size of an object in bytes, or undefined if there is none. @throws RegistryError */
  async size(key: string, options: CallOptions): Promise<number | undefined> {
    const exchange = this.#exchange(key, `looking for ${this.urlOf(key)}`, options);
    using deadline = new Deadline(options.deadlineMs, options.signal);
    try {
      // Only when no host has it, it is absent: a mirror may lack it.
      return await this.#requester.perform({ ...exchange, method: "HEAD" }, deadline, async (answer) => {
        const size = Number(answer.header("content-length") ?? Number.NaN);
        if (!Number.isSafeInteger(size) || size < 0)
          throw new RegistryError("REGISTRY_PROTOCOL", `${exchange.what}: no usable Content-Length`, { request: answer.request });
        return size;
      });
    } catch (error) {
      if (error instanceof RegistryError && error.code === "REGISTRY_NOT_FOUND") return undefined;
      throw error;
    }
  }

  /** Exactly `range` of an object. @see readRange */
  async read(key: string, range: Range, options: CallOptions & Landing): Promise<Uint8Array> {
    const exchange = this.#exchange(key, `reading ${rangeHeader(range)} of ${this.urlOf(key)}`, options);
    using deadline = new Deadline(options.deadlineMs, options.signal);
    return await readRange(this.#requester, exchange, range, deadline, options);
  }

  /**
   * Stores an object, unless one of this size is there. Nothing is seen under its key before all of it has come; what is cut short leaves
   * nothing behind but, after a kill, an unfinished upload that the store ends by its own rules.
   *
   * @returns false: it was there
   * @throws RegistryError REGISTRY_DIGEST when the source is not what was promised
   */
  async put(key: string, source: ObjectSource, options: PutOptions): Promise<boolean> {
    if (this.kind === "http-proxy") throw new TypeError("a plain server takes no uploads");
    if (options.force !== true) {
      const found = await this.size(key, { deadlineMs: options.stepDeadlineMs, ...(options.signal === undefined ? {} : options) });
      if (found === source.size) return false;
    }
    const what = `uploading ${this.urlOf(key)}`;
    await putObject({ requester: this.#requester, kind: this.kind, what, path: this.#path(key), options }, source, () =>
      this.size(key, { deadlineMs: options.stepDeadlineMs }),
    );
    return true;
  }

  /** `oss://bucket/key`, for messages. */
  urlOf(key: string): string {
    return `${this.name}/${this.#prefix}${key}`;
  }

  /** Ends everything that runs; closing twice is harmless. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.#requester[Symbol.asyncDispose]();
  }

  #exchange(key: string, what: string, options: CallOptions): Omit<Exchange, "method"> {
    const { priority = "demand", demanded, headers, proxyHeaders } = options;
    return {
      what,
      path: this.#path(key),
      scopes: [],
      capability: "pull",
      priority,
      headers: { "accept-encoding": "identity", ...headers },
      ...(demanded === undefined ? {} : { demanded }),
      ...(proxyHeaders === undefined ? {} : { proxyHeaders }),
    };
  }

  #path(key: string): string {
    if (this.#place.socketPath !== undefined) return "/";
    // A server that is asked by an id gets a name; names lead nowhere.
    if (!/^[A-Za-z0-9._-]{1,255}$/.test(key) || key === "." || key === "..")
      throw new RegistryError("REGISTRY_REFERENCE", `${JSON.stringify(key.slice(0, 80))} is no name of an object`);
    return `/${encodeKey(this.#prefix + key)}`;
  }
}
