import { createHash, type Hash } from "node:crypto";
import { RegistryError } from "./errors.ts";

/** `sha256:…` of bytes in memory. */
export function sha256(bytes: Uint8Array | string): string {
  return `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
}

/** A running hash of the algorithm a digest names. */
export function hasherOf(digest: string): Hash {
  return createHash(digest.slice(0, digest.indexOf(":")));
}

/** @throws RegistryError REGISTRY_DIGEST */
export function verifyDigest(bytes: Uint8Array, expected: string, what: string): void {
  const found = `${expected.slice(0, expected.indexOf(":"))}:${hasherOf(expected).update(bytes).digest("hex")}`;
  if (found !== expected) throw digestError(what, expected, found);
}

/** Other bytes than asked for: retryable, because another host may have the right ones. */
export function digestError(what: string, expected: string, found: string): RegistryError {
  return new RegistryError("REGISTRY_DIGEST", `${what}: expected ${expected}, got bytes with ${found}`, {
    retryable: true,
    hint: "the registry or something on the way changed the content; nothing of it was used",
  });
}
