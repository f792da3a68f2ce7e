import { randomBytes } from "node:crypto";
import { constants, copyFile, link, mkdir, open, readFile, rename, rm, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { z } from "zod";
import { type Descriptor, MEDIA_TYPES } from "../descriptor.ts";
import { digestError, hasherOf, sha256, verifyDigest } from "../digest.ts";
import { RegistryError } from "../errors.ts";
import { MANIFEST_BYTES_MAX } from "../limits.ts";
import { checkDigest } from "../reference.ts";
import type { BlobBytes, ImageSource, ImageTarget, WriteOptions } from "./image.ts";

const REF_NAME = "org.opencontainers.image.ref.name";
const FULL_NAME = "io.containerd.image.name";

const layoutIndex = z.looseObject({
  schemaVersion: z.literal(2),
  mediaType: z.string().optional(),
  manifests: z.array(
    z.looseObject({
      mediaType: z.string().default(MEDIA_TYPES.ociManifest),
      digest: z.string(),
      size: z.number().int().nonnegative(),
      annotations: z
        .record(z.string(), z.string())
        .nullish()
        .transform((value) => value ?? undefined),
    }),
  ),
});
type LayoutIndex = z.infer<typeof layoutIndex>;

/**
 * An image in an OCI layout folder. Every file is written under another name, synced and renamed, so a kill leaves no half file under a
 * digest; `index.json` is exchanged as a whole under a lock file, so two writers of one folder do not lose each other's tags.
 * Source: OCI image specification, image-layout.md
 */
export class LayoutImage implements ImageSource, ImageTarget {
  readonly name: string;
  readonly directory: string;
  readonly #tag: string | undefined;
  readonly #digest: string | undefined;
  /** `index.json` itself, when it is the image's index. */
  #ownIndex: { digest: string; bytes: Uint8Array } | undefined;

  /** @param tag  a tag, or `@sha256:…` given as `digest` */
  constructor(directory: string, options: { tag?: string; digest?: string } = {}) {
    this.directory = directory;
    this.#tag = options.tag;
    this.#digest = options.digest;
    this.name = `oci:${directory}${options.tag === undefined ? "" : `:${options.tag}`}${options.digest === undefined ? "" : `@${options.digest}`}`;
  }

  async resolve(): Promise<Descriptor> {
    const { index, bytes } = await this.#readIndex();
    const entries = index.manifests as Descriptor[];
    if (this.#digest !== undefined)
      return this.#one(
        entries.filter(({ digest }) => digest === this.#digest),
        entries,
      );
    if (this.#tag !== undefined)
      return this.#one(
        entries.filter((entry) => nameOf(entry) === this.#tag || entry.annotations?.[FULL_NAME] === this.#tag),
        entries,
      );
    if (entries.length > 1 && entries.every((entry) => entry.platform !== undefined && nameOf(entry) === undefined)) {
      const digest = sha256(bytes);
      this.#ownIndex = { digest, bytes };
      return { mediaType: index.mediaType ?? MEDIA_TYPES.ociIndex, digest, size: bytes.length };
    }
    return this.#one(entries, entries);
  }

  async readManifest(descriptor: Descriptor): Promise<Uint8Array> {
    if (this.#ownIndex?.digest === descriptor.digest) return this.#ownIndex.bytes;
    const file = this.#path(descriptor.digest);
    const bytes = await this.#read(file, MANIFEST_BYTES_MAX);
    verifyDigest(bytes, descriptor.digest, `reading ${file}`);
    return bytes;
  }

  async *openBlob(descriptor: Descriptor, options: { offset?: number; signal?: AbortSignal } = {}): AsyncGenerator<Uint8Array> {
    const path = this.#path(descriptor.digest);
    const start = options.offset ?? 0;
    const hash = start === 0 ? hasherOf(descriptor.digest) : undefined;
    await using file = await this.#open(path);
    let at = start;
    for (;;) {
      options.signal?.throwIfAborted();
      const buffer = Buffer.allocUnsafe(1024 * 1024);
      const { bytesRead } = await file.read(buffer, 0, buffer.length, at);
      if (bytesRead === 0) break;
      at += bytesRead;
      hash?.update(buffer.subarray(0, bytesRead));
      yield buffer.subarray(0, bytesRead);
    }
    if (at !== descriptor.size) throw new RegistryError("REGISTRY_DIGEST", `reading ${path}: ${at} bytes instead of ${descriptor.size}`);
    const found = hash === undefined ? descriptor.digest : `${descriptor.digest.split(":")[0]}:${hash.digest("hex")}`;
    if (found !== descriptor.digest) throw digestError(`reading ${path}`, descriptor.digest, found);
  }

  async hasBlob(digest: string): Promise<boolean> {
    return (await stat(this.#path(digest)).catch(() => undefined))?.isFile() === true;
  }

  async writeBlob(descriptor: Descriptor, bytes: BlobBytes, options: WriteOptions = {}): Promise<boolean> {
    const there = await stat(this.#path(descriptor.digest)).catch(() => undefined);
    if (there?.isFile() && there.size === descriptor.size) return false;
    await this.#store(bytes, options, descriptor);
    return true;
  }

  async uploadBlob(mediaType: string, bytes: BlobBytes, options: WriteOptions = {}): Promise<Descriptor> {
    return { mediaType, ...(await this.#store(bytes, options)) };
  }

  async mountBlob(descriptor: Descriptor, from: ImageSource): Promise<boolean> {
    if (await this.hasBlob(descriptor.digest)) return true;
    if (!(from instanceof LayoutImage)) return false;
    const [source, target] = [from.#path(descriptor.digest), this.#path(descriptor.digest)];
    await this.#prepare(dirname(target));
    const temporary = `${target}.${randomBytes(6).toString("hex")}.tmp`;
    try {
      await link(source, target).catch(async (error: NodeJS.ErrnoException) => {
        if (error.code === "EEXIST") return;
        await copyFile(source, temporary, constants.COPYFILE_FICLONE);
        await rename(temporary, target);
      });
      return true;
    } catch {
      await rm(temporary, { force: true });
      return false;
    }
  }

  async writeManifest(bytes: Uint8Array, mediaType: string, tagged: boolean): Promise<Descriptor> {
    const descriptor = { mediaType, digest: sha256(bytes), size: bytes.length };
    if (!(await this.hasBlob(descriptor.digest))) await this.#writeFile(this.#path(descriptor.digest), bytes);
    if (tagged) await this.#addToIndex(descriptor);
    return descriptor;
  }

  async [Symbol.asyncDispose](): Promise<void> {}

  #path(digest: string): string {
    const [algorithm, hex] = checkDigest(digest).split(":") as [string, string];
    return join(this.directory, "blobs", algorithm, hex);
  }

  #one(found: Descriptor[], all: Descriptor[]): Descriptor {
    if (found.length === 1 || (found.length > 1 && this.#tag === undefined && this.#digest !== undefined)) return found[0] as Descriptor;
    const tags = all.map(nameOf).filter((name) => name !== undefined);
    const hint = `name one as oci:${this.directory}:TAG; there ${tags.length === 0 ? "are no tags" : `are ${tags.slice(0, 20).join(", ")}`}`;
    if (found.length > 1) {
      const last = found.at(-1);
      // Tools append; the newest of one tag counts.
      if (this.#tag !== undefined && last !== undefined) return last;
      throw new RegistryError("REGISTRY_NOT_FOUND", `${this.name} holds ${found.length} images`, { hint });
    }
    throw new RegistryError("REGISTRY_NOT_FOUND", `${this.name} is not in the layout folder`, { hint });
  }

  async #readIndex(): Promise<{ index: LayoutIndex; bytes: Uint8Array }> {
    const file = join(this.directory, "index.json");
    const bytes = await this.#read(file, MANIFEST_BYTES_MAX);
    let json: unknown;
    try {
      json = JSON.parse(Buffer.from(bytes).toString("utf8"));
    } catch (cause) {
      throw new RegistryError("REGISTRY_LAYOUT", `${file} is not JSON`, { cause });
    }
    const parsed = layoutIndex.safeParse(json);
    if (!parsed.success) {
      const issue = parsed.error.issues[0];
      throw new RegistryError("REGISTRY_LAYOUT", `${file}: ${issue?.path.join(".") || "top level"}: ${issue?.message}`);
    }
    return { index: parsed.data, bytes };
  }

  async #read(file: string, bytesMax: number): Promise<Uint8Array> {
    await using handle = await this.#open(file);
    const { size } = await handle.stat();
    if (size > bytesMax) throw new RegistryError("REGISTRY_TOO_LARGE", `${file} has ${size} bytes, more than ${bytesMax}`);
    return handle.readFile();
  }

  async #open(file: string) {
    try {
      return await open(file, "r");
    } catch (cause) {
      const { code } = cause as NodeJS.ErrnoException;
      if (code === "ENOENT")
        throw new RegistryError("REGISTRY_NOT_FOUND", `${file} does not exist`, {
          cause,
          hint: `${this.directory} is not a complete OCI layout folder`,
        });
      throw new RegistryError("REGISTRY_LAYOUT", `${file} cannot be read (${code})`, { cause });
    }
  }

  async #prepare(directory: string): Promise<void> {
    await mkdir(directory, { recursive: true });
    const marker = join(this.directory, "oci-layout");
    if ((await stat(marker).catch(() => undefined)) === undefined)
      await this.#writeFile(marker, Buffer.from('{"imageLayoutVersion":"1.0.0"}'));
  }

  async #store(
    bytes: BlobBytes,
    options: WriteOptions,
    expected?: Pick<Descriptor, "digest" | "size">,
  ): Promise<{ digest: string; size: number }> {
    const algorithm = expected?.digest.split(":")[0] ?? "sha256";
    const directory = join(this.directory, "blobs", algorithm);
    await this.#prepare(directory);
    const temporary = join(directory, `.${randomBytes(8).toString("hex")}.tmp`);
    const hash = hasherOf(`${algorithm}:`);
    let size = 0;
    try {
      {
        await using file = await open(temporary, "wx");
        for await (const piece of typeof bytes === "function" ? bytes() : bytes) {
          options.signal?.throwIfAborted();
          size += piece.length;
          if (expected !== undefined && size > expected.size) break;
          hash.update(piece);
          await file.writeFile(piece);
          options.onProgress?.(size);
        }
        if (expected !== undefined && size !== expected.size) {
          throw new RegistryError(
            "REGISTRY_DIGEST",
            `writing ${this.#path(expected.digest)}: the source has ${size} bytes (or more) instead of ${expected.size}`,
          );
        }
        await file.sync();
      }
      const digest = `${algorithm}:${hash.digest("hex")}`;
      if (expected !== undefined && digest !== expected.digest)
        throw digestError(`writing ${this.#path(expected.digest)}`, expected.digest, digest);
      await rename(temporary, this.#path(digest));
      return { digest, size };
    } catch (error) {
      await rm(temporary, { force: true });
      throw diskError(error, temporary);
    }
  }

  async #writeFile(file: string, bytes: Uint8Array): Promise<void> {
    await mkdir(dirname(file), { recursive: true });
    if (file.includes("/blobs/")) await this.#prepare(dirname(file));
    const temporary = `${file}.${randomBytes(6).toString("hex")}.tmp`;
    try {
      {
        await using handle = await open(temporary, "wx");
        await handle.writeFile(bytes);
        await handle.sync();
      }
      await rename(temporary, file);
    } catch (error) {
      await rm(temporary, { force: true });
      throw diskError(error, file);
    }
  }

  /** Replaces what the tag stood for; without a tag the folder's only untagged image. */
  async #addToIndex(descriptor: Descriptor): Promise<void> {
    await this.#prepare(this.directory);
    const lock = join(this.directory, "index.json.lock");
    for (let attempt = 0; ; attempt++) {
      try {
        await (await open(lock, "wx")).close();
        break;
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw diskError(error, lock);
        const age = Date.now() - ((await stat(lock).catch(() => undefined))?.mtimeMs ?? 0);
        // Its owner held it for a moment only; after ten seconds it is dead.
        if (age > 10_000) await rm(lock, { force: true });
        if (attempt > 600)
          throw new RegistryError("REGISTRY_LAYOUT", `${lock} stays there`, { hint: "remove it if no other program writes this folder" });
        await new Promise((resolve) => setTimeout(resolve, 25));
      }
    }
    try {
      const file = join(this.directory, "index.json");
      const exists = (await stat(file).catch(() => undefined)) !== undefined;
      const { index } = exists
        ? await this.#readIndex()
        : { index: { schemaVersion: 2 as const, mediaType: MEDIA_TYPES.ociIndex, manifests: [] } };
      const entry = { ...descriptor, ...(this.#tag === undefined ? {} : { annotations: { [REF_NAME]: this.#tag } }) };
      const others = index.manifests.filter((other) => nameOf(other as Descriptor) !== this.#tag);
      await this.#writeFile(file, Buffer.from(JSON.stringify({ ...index, manifests: [...others, entry] })));
    } finally {
      await rm(lock, { force: true });
    }
  }
}

function nameOf(entry: Pick<Descriptor, "annotations">): string | undefined {
  const name = entry.annotations?.[REF_NAME];
  return name === undefined || name === "" ? undefined : name;
}

function diskError(error: unknown, file: string): unknown {
  const { code, syscall } = error as NodeJS.ErrnoException;
  if (error instanceof RegistryError || syscall === undefined) return error;
  return new RegistryError("REGISTRY_LAYOUT", `${file} cannot be written (${code})`, {
    cause: error,
    ...(code === "ENOSPC" ? { hint: "the disk is full" } : {}),
  });
}

/** Whether a folder is an OCI layout. */
export async function isLayout(directory: string): Promise<boolean> {
  try {
    const parsed: unknown = JSON.parse(await readFile(join(directory, "oci-layout"), "utf8"));
    return typeof (parsed as { imageLayoutVersion?: unknown }).imageLayoutVersion === "string";
  } catch {
    return false;
  }
}
