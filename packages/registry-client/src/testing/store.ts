import { createHash, randomUUID } from "node:crypto";
import { createReadStream, existsSync, mkdirSync, readFileSync, renameSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Readable } from "node:stream";

const REF_NAME = "org.opencontainers.image.ref.name";

interface StoredManifest {
  readonly digest: string;
  readonly mediaType: string;
}

/**
 * Content of the test registry: blobs and manifests in memory, or in an OCI layout folder (`directory`), whose tags are `REPOSITORY:TAG`
 * or plain `TAG` (then valid for every repository).
 */
export class Store {
  readonly #directory: string | undefined;
  readonly #blobs = new Map<string, Buffer>();
  readonly #owned = new Map<string, Set<string>>();
  readonly #tags = new Map<string, StoredManifest>();
  readonly #types = new Map<string, string>();
  readonly uploads = new Map<string, { repository: string; parts: Buffer[]; size: number }>();

  constructor(directory?: string) {
    this.#directory = directory;
    if (directory === undefined) return;
    mkdirSync(join(directory, "blobs", "sha256"), { recursive: true });
    if (!existsSync(join(directory, "oci-layout"))) writeFileSync(join(directory, "oci-layout"), '{"imageLayoutVersion":"1.0.0"}');
    if (!existsSync(join(directory, "index.json"))) return;
    const index = JSON.parse(readFileSync(join(directory, "index.json"), "utf8")) as {
      manifests: { digest: string; mediaType: string; annotations?: Record<string, string> }[];
    };
    for (const entry of index.manifests) {
      const name = entry.annotations?.[REF_NAME] ?? "latest";
      this.#tags.set(name.includes(":") ? name : `*:${name}`, entry);
      this.#types.set(entry.digest, entry.mediaType);
    }
  }

  putBlob(bytes: Uint8Array, repository = "*"): string {
    const digest = `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
    if (this.#directory === undefined) this.#blobs.set(digest, Buffer.from(bytes));
    else if (!existsSync(this.#path(digest))) {
      writeFileSync(`${this.#path(digest)}.tmp`, bytes);
      renameSync(`${this.#path(digest)}.tmp`, this.#path(digest));
    }
    this.own(repository, digest);
    return digest;
  }

  /** Makes a blob visible in a repository, as a mount does. */
  own(repository: string, digest: string): void {
    const owned = this.#owned.get(repository) ?? new Set();
    owned.add(digest);
    this.#owned.set(repository, owned);
  }

  has(digest: string, repository: string): boolean {
    if (this.size(digest) === undefined) return false;
    return this.#directory !== undefined || this.#owned.get("*")?.has(digest) === true || this.#owned.get(repository)?.has(digest) === true;
  }

  size(digest: string): number | undefined {
    if (this.#directory === undefined) return this.#blobs.get(digest)?.length;
    return existsSync(this.#path(digest)) ? statSync(this.#path(digest)).size : undefined;
  }

  /** Bytes `[start, end]`, or a stream of them for files. */
  read(digest: string, start: number, end: number): Buffer | Readable {
    const bytes = this.#blobs.get(digest);
    if (bytes !== undefined) return bytes.subarray(start, end + 1);
    return end < start ? Buffer.alloc(0) : createReadStream(this.#path(digest), { start, end });
  }

  putManifest(repository: string, reference: string, bytes: Uint8Array, mediaType: string): string {
    const digest = this.putBlob(bytes, repository);
    this.#types.set(digest, mediaType);
    if (!reference.includes(":")) this.#tags.set(`${repository}:${reference}`, { digest, mediaType });
    if (this.#directory !== undefined) this.#saveIndex();
    return digest;
  }

  manifest(repository: string, reference: string): (StoredManifest & { size: number }) | undefined {
    const found = reference.includes(":")
      ? { digest: reference, mediaType: this.#types.get(reference) ?? this.#guessType(reference) }
      : (this.#tags.get(`${repository}:${reference}`) ?? this.#tags.get(`*:${reference}`));
    if (found?.mediaType === undefined) return undefined;
    const size = this.size(found.digest);
    return size === undefined ? undefined : { digest: found.digest, mediaType: found.mediaType, size };
  }

  tags(repository: string): string[] {
    return [...this.#tags.keys()].filter((name) => name.startsWith(`${repository}:`)).map((name) => name.slice(repository.length + 1));
  }

  newUpload(repository: string): string {
    const id = randomUUID();
    this.uploads.set(id, { repository, parts: [], size: 0 });
    return id;
  }

  #guessType(digest: string): string | undefined {
    const size = this.size(digest);
    if (this.#directory === undefined || size === undefined || size > 4 * 1024 * 1024) return undefined;
    try {
      const json = JSON.parse(readFileSync(this.#path(digest), "utf8")) as { mediaType?: string; manifests?: unknown; layers?: unknown };
      if (json.manifests === undefined && json.layers === undefined) return undefined;
      return json.mediaType ?? `application/vnd.oci.image.${json.manifests === undefined ? "manifest" : "index"}.v1+json`;
    } catch {
      return undefined;
    }
  }

  #path(digest: string): string {
    if (!/^sha256:[0-9a-f]{64}$/.test(digest)) return "/nonexistent";
    return join(this.#directory as string, "blobs", "sha256", digest.slice("sha256:".length));
  }

  #saveIndex(): void {
    const manifests = [...this.#tags].map(([name, { digest, mediaType }]) => ({
      mediaType,
      digest,
      size: this.size(digest),
      annotations: { [REF_NAME]: name.replace(/^\*:/, "") },
    }));
    const file = join(this.#directory as string, "index.json");
    writeFileSync(`${file}.tmp`, JSON.stringify({ schemaVersion: 2, mediaType: "application/vnd.oci.image.index.v1+json", manifests }));
    renameSync(`${file}.tmp`, file);
  }
}
