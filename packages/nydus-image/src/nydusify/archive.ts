/** OCI layouts in one tar, as `file://PATH` of `copy` names them. Source: spec/nydusify.md, section 8 */
import { createReadStream } from "node:fs";
import { mkdir, open, readdir, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { readArchive } from "@nydus-ts/builder";
import { NydusImageError } from "../errors.ts";
import { encodeTarEntry, tarEnd, tarPadding } from "../tar-writer.ts";
import { writeWholeFile } from "../whole-file.ts";

const scheme = "file://";
const pieceBytes = 1024 * 1024;
/** All that a layout needs; anything else an archive holds is left where it is. */
const layoutMember = /^(?:\.\/)?(oci-layout|index\.json|blobs\/sha256\/[0-9a-f]{64})$/;

export function archivePath(reference: string): string | undefined {
  return reference.startsWith(scheme) ? reference.slice(scheme.length) : undefined;
}

/** Unpacks the one image of an archive into a layout folder. @throws NydusImageError IMAGE_SOURCE */
export async function unpackArchive(archive: string, directory: string): Promise<string> {
  const layout = join(directory, "source");
  await mkdir(join(layout, "blobs/sha256"), { recursive: true });
  const refuse = (why: string, cause?: unknown) =>
    new NydusImageError("IMAGE_SOURCE", `${archive} ${why}`, cause === undefined ? undefined : { cause });
  if (!(await stat(archive).catch(() => undefined))?.isFile()) throw refuse("is not there");
  let index: { manifests?: unknown[] } | undefined;
  try {
    for await (const member of readArchive(createReadStream(archive, { highWaterMark: pieceBytes }))) {
      const name = layoutMember.exec(member.name)?.[1];
      if (name === undefined || member.kind !== "file") continue;
      await using file = await open(join(layout, name), "w");
      for (let left = member.size; left > 0; ) {
        const piece = Buffer.allocUnsafe(Math.min(pieceBytes, left));
        await member.read(piece);
        await file.writeFile(piece);
        left -= piece.length;
        if (name === "index.json" && piece.length === member.size) index = JSON.parse(piece.toString()) as typeof index;
      }
    }
  } catch (cause) {
    throw refuse("can not be read as an archive of an OCI layout", cause);
  }
  const count = index?.manifests?.length;
  if (count === undefined) throw refuse("holds no OCI layout: its index.json is missing");
  if (count !== 1) throw refuse(`holds ${count} images; it must hold one`);
  return layout;
}

/** Packs a layout folder: equal layouts give equal archives. */
export async function packArchive(layout: string, archive: string): Promise<void> {
  await mkdir(dirname(archive), { recursive: true });
  await writeWholeFile(archive, async (output) => {
    const header = (name: string, size: number) =>
      output.writeFile(
        encodeTarEntry({ name, type: "0", mode: 0o644, uid: 0, gid: 0, mtime: 0n, size, linkName: "", rdev: 0, xattrs: new Map() }),
      );
    const blobs = (await readdir(join(layout, "blobs/sha256"))).sort().map((name) => `blobs/sha256/${name}`);
    for (const name of ["oci-layout", "index.json", ...blobs]) {
      const path = join(layout, name);
      const { size } = await stat(path);
      await header(name, size);
      for await (const piece of createReadStream(path, { highWaterMark: pieceBytes })) await output.writeFile(piece as Uint8Array);
      await output.writeFile(tarPadding(size));
    }
    await output.writeFile(tarEnd);
  });
}
