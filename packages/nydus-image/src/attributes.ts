/** The file of `create --attributes`, in the form of gitattributes: which files lie in blobs that others made, and where. Source: spec/nydus-image.md, section 6.2 */
import type { ExternalFile } from "@nydus-ts/builder";
import { NydusImageError } from "./errors.ts";
import { parseHumanSize } from "./options.ts";

/** External files by path, one byte per code unit. Lines of other kinds say nothing here. @throws NydusImageError IMAGE_ARGUMENT with the line */
export function parseAttributes(text: string): Map<string, ExternalFile> {
  const files = new Map<string, ExternalFile>();
  for (const [i, line] of text.split("\n").entries()) {
    const [pattern, ...words] = line.trim().split(/\s+/);
    if (pattern === undefined || pattern === "" || pattern.startsWith("#")) continue;
    const refuse = (why: string): never => {
      throw new NydusImageError("IMAGE_ARGUMENT", `attributes, line ${i + 1} (${pattern}): ${why}`);
    };
    const values = new Map(words.map((word) => [word.split("=", 1)[0]!, word.slice(word.indexOf("=") + 1)]));
    if (values.get("type") !== "external") continue;
    const names = pattern.split("/").filter((name) => name !== "" && name !== ".");
    if (names.length === 0 || names.includes("..")) refuse("the path leads out of the directory");
    const required = (key: string): string => values.get(key) ?? refuse(`${key} is missing`);
    const size = (key: string): number => parseHumanSize(required(key)) ?? refuse(`${key}=${values.get(key)} is no size`);
    // A directory may be listed too: it has no data, and goes where its files go.
    if (!values.has("blob_id")) continue;
    const blobId = required("blob_id");
    if (!/^[0-9a-f]{64}$/.test(blobId)) refuse(`blob_id=${blobId} is not 64 hexadecimal digits`);
    const crcs = (values.get("crcs") ?? "").split(",").filter((crc) => crc !== "");
    const odd = crcs.find((crc) => !/^(0x)?[0-9a-f]{1,8}$/i.test(crc));
    if (odd !== undefined) refuse(`${odd} in crcs is no checksum`);
    files.set(`/${Buffer.from(names.join("/")).toString("latin1")}`, {
      fileSize: values.has("file_size") ? size("file_size") : undefined,
      blobIndex: size("blob_index"),
      blobId,
      blobBytes: size("compressed_size"),
      chunkSize: size("chunk_size"),
      offset: size("chunk_0_compressed_offset"),
      crcs: crcs.map((crc) => Number.parseInt(crc.replace(/^0x/i, ""), 16)),
    });
  }
  return files;
}
