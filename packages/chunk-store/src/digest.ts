import { hash } from "node:crypto";
import { blake3 } from "@napi-rs/blake-hash";
import type { Digester } from "@nydus-ts/rafs-format";

/** The digest of `bytes`, 32 bytes. blake3 runs at 5.6 GB/s, sha256 at 1.3 GB/s. */
export const digestBytes = (digester: Digester, bytes: Uint8Array): Uint8Array =>
  digester === "blake3" ? blake3(bytes) : hash("sha256", bytes, "buffer");

export const hasDigest = (digester: Digester, bytes: Uint8Array, digest: Uint8Array): boolean =>
  Buffer.compare(digestBytes(digester, bytes), digest) === 0;
