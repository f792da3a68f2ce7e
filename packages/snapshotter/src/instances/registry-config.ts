import { existsSync, readFileSync } from "node:fs";
import { isLoopback } from "@nydus-ts/mirror-config";
import { type Credentials, parseReference } from "@nydus-ts/registry-client";
import { parse } from "toml";
import { findAuth, labelCredentials } from "../auth/credentials.ts";
import { messageOf, SnapshotterError } from "../errors.ts";
import { imageRefOf, type Labels } from "../layers/labels.ts";
import { containerdDeadlineMs } from "../limits.ts";
import type { Log } from "../log.ts";
import type { Snapshot } from "../store/snapshots.ts";
import type { ConfigSource } from "./config-source.ts";
import { completeTemplate, type Template } from "./template.ts";

export interface RegistryConfigOptions {
  readonly template: Template;
  readonly cache: string;
  /** Our own hosts directory, "" for none. */
  readonly mirrorsDir: string;
  /** containerd's: "auto", "" or directories joined by colons. */
  readonly containerdConfigPath: string;
  readonly credentials: readonly Credentials[];
  /** Asks containerd which image a bootstrap snapshot belongs to. */
  readonly findImage: (bootstrap: Snapshot) => Promise<string | undefined>;
  readonly log: Log;
}

/** Completes the daemon's configuration for an image from its reference. Source: spec/snapshotter.md 3.3, 4; users.md row 61. */
export class RegistryConfig implements ConfigSource {
  readonly #options: RegistryConfigOptions;

  constructor(options: RegistryConfigOptions) {
    this.#options = options;
  }

  async configure(request: { key: string; bootstrap: Snapshot | undefined; labels: Labels }): Promise<{ text: string; image: string }> {
    const { template, cache, log } = this.#options;
    const labels = { ...request.bootstrap?.labels, ...request.labels };
    const given = imageRefOf(labels);
    if (template.device.backend.type !== "registry")
      return { text: completeTemplate(template, { key: request.key, cache, registry: undefined }), image: given ?? "" };
    const image = given ?? (request.bootstrap && (await this.#options.findImage(request.bootstrap)));
    if (image === undefined)
      throw new SnapshotterError(
        "IMAGE_UNKNOWN",
        `snapshot ${request.bootstrap?.key ?? request.key}: no client said which image it belongs to, and containerd has no image with it; set disable_snapshot_annotations = false in containerd's CRI configuration, or containerd.address in this program's`,
      );
    const reference = referenceOf(image);
    // The original writes index.docker.io, and so do hosts directories made for it; both names mean the same server.
    const host = reference.host === "docker.io" ? "index.docker.io" : reference.host;
    const signal = AbortSignal.timeout(containerdDeadlineMs);
    const warn = (source: string, error: unknown) =>
      log.warn({ source, host, error: messageOf(error) }, "credentials could not be looked up there");
    const auth = await findAuth(reference.host, [labelCredentials(labels), ...this.#options.credentials], { signal, warn });
    const hasScheme = typeof template.device.backend.config?.["scheme"] === "string";
    const scheme = !hasScheme && isLoopback(host) ? "http" : undefined;
    const registry = { host, repository: reference.repository, scheme, hostsDirs: this.#hostsDirs(), auth };
    return { text: completeTemplate(template, { key: request.key, cache, registry }), image };
  }

  #hostsDirs(): string[] {
    const { mirrorsDir, containerdConfigPath, log } = this.#options;
    const own = mirrorsDir === "" ? [] : [mirrorsDir];
    const containerd = containerdConfigPath === "auto" ? containerdHostsPath("/etc/containerd/config.toml", log) : containerdConfigPath;
    return [...own, ...containerd.split(":").filter((path) => path !== "" && existsSync(path))];
  }
}

function referenceOf(image: string): { host: string; repository: string } {
  try {
    return parseReference(image);
  } catch (error) {
    throw new SnapshotterError("IMAGE_UNKNOWN", `image reference ${JSON.stringify(image)} cannot be used: ${messageOf(error)}`, {
      cause: error,
    });
  }
}

/** `config_path` of containerd's own configuration, version 2 and 3; "" when there is none. Read anew each time, so a change needs no restart. */
export function containerdHostsPath(configFile: string, log: Log): string {
  if (!existsSync(configFile)) return "";
  try {
    const plugins =
      (parse(readFileSync(configFile, "utf8")) as { plugins?: Record<string, { registry?: { config_path?: unknown } }> }).plugins ?? {};
    for (const name of ["io.containerd.cri.v1.images", "io.containerd.grpc.v1.cri"]) {
      const path = plugins[name]?.registry?.config_path;
      if (typeof path === "string" && path !== "") return path;
    }
  } catch (error) {
    log.warn(
      { file: configFile, error: messageOf(error) },
      "containerd's configuration could not be read; its registry hosts are not used",
    );
  }
  return "";
}
