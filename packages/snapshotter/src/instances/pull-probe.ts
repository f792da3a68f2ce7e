import { lstatSync } from "node:fs";
import { nydusdRegistryOptions, RegistryError, registryBackend } from "@nydus-ts/registry-client";
import { z } from "zod";
import { messageOf, SnapshotterError } from "../errors.ts";
import { imageRefOf, LABELS, type Labels } from "../layers/labels.ts";
import { probeDeadlineMs, probeFreshMs, probeKeptMs } from "../limits.ts";
import type { Log } from "../log.ts";
import { blobIdOf, cacheFilesOf } from "./cache.ts";
import type { ConfigSource } from "./config-source.ts";

export interface PullProbesOptions {
  /** Folder of the blob cache. */
  readonly cache: string;
  readonly configs: ConfigSource;
  readonly log: Log;
}

/** Looks, while an image is pulled, whether its data can be had. One look for an image's blob, however many layers or clients ask. */
export class PullProbes {
  readonly #options: PullProbesOptions;
  /** Running or just ended, by image and blob. */
  readonly #looks = new Map<string, Promise<void>>();
  /** When data of an image came last, by its reference; `performance.now()`. */
  readonly #fetchedAt = new Map<string, number>();

  constructor(options: PullProbesOptions) {
    this.#options = options;
  }

  /**
   * @param labels  of a blob layer; without an image reference among them nothing is known, and nothing is asked
   * @throws SnapshotterError IMAGE_DATA, IMAGE_UNKNOWN
   */
  look(labels: Labels): Promise<void> {
    const blobId = blobIdOf(labels[LABELS.layerDigest]);
    const image = imageRefOf(labels);
    if (blobId === undefined || image === undefined) return Promise.resolve();
    const key = `${image} ${blobId}`;
    const running = this.#looks.get(key);
    if (running !== undefined) return running;
    const looking = this.#look(image, blobId, labels);
    this.#looks.set(key, looking);
    const forget = () => {
      if (this.#looks.get(key) === looking) this.#looks.delete(key);
    };
    // What worked holds for the rest of the pull; after a failure the next pull looks again.
    looking.then(() => setTimeout(forget, probeKeptMs).unref(), forget);
    return looking;
  }

  /** Whether a look fetched data of the image so short a time ago that its mount need not look again. */
  fetchedJustNow(image: string): boolean {
    return performance.now() - (this.#fetchedAt.get(image) ?? Number.NEGATIVE_INFINITY) < probeFreshMs;
  }

  async #look(image: string, blobId: string, labels: Labels): Promise<void> {
    const { cache, configs, log } = this.#options;
    for (const path of cacheFilesOf(cache, blobId)) if (lstatSync(path).blocks > 0) return;
    const { text } = await configs.configure({ key: "pull", bootstrap: undefined, labels });
    try {
      const outcome = await probeBlob(text, blobId, { deadlineMs: probeDeadlineMs });
      if (outcome === "fetched") {
        this.#fetchedAt.set(image, performance.now());
        setTimeout(() => !this.fetchedJustNow(image) && this.#fetchedAt.delete(image), probeFreshMs).unref();
      }
      if (outcome === "unknown")
        log.warn({ image, blob: blobId, ms: probeDeadlineMs }, "the registry did not say in time whether the image's data can be had");
    } catch (error) {
      throw new SnapshotterError(
        "IMAGE_DATA",
        `image ${image}: its data cannot be fetched from where nydusd would ask, so no container could read it: ${messageOf(error)}; if containerd pulls from another host, tell remote.mirrors_config.dir or containerd_config_path`,
        { cause: error },
      );
    }
  }
}

// The keys of a registry back end in nydusd's configuration, version 1. Source: spec/nydusd.md 3.5.2.
const backendSchema = z.object({
  device: z.object({
    backend: z.object({
      type: z.string(),
      config: z
        .object({
          host: z.string(),
          repo: z.string(),
          scheme: z.enum(["http", "https"]).optional(),
          auth: z.string().optional(),
          registry_token: z.string().optional(),
          hosts_dirs: z.array(z.string()).optional(),
          mirrors: z.unknown().optional(),
          skip_verify: z.boolean().optional(),
          ca_cert_files: z.array(z.string()).optional(),
          timeout: z.number().optional(),
          connect_timeout: z.number().optional(),
          blob_url_scheme: z.string().optional(),
          blob_redirected_host: z.string().optional(),
          proxy: z
            .object({ url: z.string().default(""), fallback: z.boolean().default(true), use_http: z.boolean().default(false) })
            .optional(),
        })
        .optional(),
    }),
  }),
});

/** "unknown": it took too long to tell. "not asked": no registry, or a configuration that the daemon itself will refuse, with the key. */
export type ProbeOutcome = "fetched" | "unknown" | "not asked";

/**
 * Fetches the first byte of a blob from where a daemon with this configuration would: the same hosts, credentials and TLS settings.
 *
 * @param text  the daemon's configuration of an instance, as it is given to the daemon
 * @throws RegistryError with host and cause: no host has it, or none can be reached
 */
export async function probeBlob(text: string, blobId: string, { deadlineMs }: { deadlineMs: number }): Promise<ProbeOutcome> {
  const parsed = backendSchema.safeParse(JSON.parse(text));
  const config = parsed.data?.device.backend.config;
  if (config === undefined || parsed.data?.device.backend.type !== "registry") return "not asked";
  const options = nydusdRegistryOptions(config, { file: "the daemon's configuration", key: "device.backend.config" });
  await using registry = await registryBackend(options);
  try {
    await registry.read(blobId, { offset: 0, length: 1 }, { deadlineMs, priority: "demand" });
    return "fetched";
  } catch (error) {
    if (error instanceof RegistryError && error.code === "REGISTRY_DEADLINE") return "unknown";
    throw error;
  }
}
