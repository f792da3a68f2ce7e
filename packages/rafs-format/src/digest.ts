import { createHash } from "node:crypto";
import { Blake3Hasher } from "@napi-rs/blake-hash";
import type { Digester } from "./constants.ts";

/** 32-byte digest over the parts in order. */
export function digestOf(digester: Digester, parts: Iterable<Uint8Array>): Uint8Array {
  const hash = digester === "sha256" ? createHash("sha256") : new Blake3Hasher();
  for (const part of parts) hash.update(part);
  return hash instanceof Blake3Hasher ? hash.digestBuffer() : hash.digest();
}
