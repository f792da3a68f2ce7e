/** Encryption of what a blob holds. Source: spec/rafs.md, section 4.3; IEEE 1619 */
import { createCipheriv, randomBytes } from "node:crypto";
import { BuilderError } from "./errors.ts";

/** AES-128-XTS: data key and tweak key, and the one tweak of all items of a blob. They stand in the bootstrap. */
export interface BlobKey {
  key: Uint8Array;
  iv: Uint8Array;
}

const cipherBlockBytes = 16;
/** What follows the padding of an item that is shorter than a cipher block; readers take any item that ends so for a padded one. */
const padMark = Buffer.from([0x78, 0x90]);

/** A key whose halves differ, as XTS demands. */
export function newBlobKey(): BlobKey {
  const key = randomBytes(32);
  while (key.subarray(0, 16).equals(key.subarray(16))) key.set(randomBytes(16));
  return { key, iv: randomBytes(16) };
}

/** A reader would take this item for a padded one and cut it. */
export function looksPadded(item: Uint8Array): boolean {
  return item.length === cipherBlockBytes + padMark.length && padMark.equals(item.subarray(cipherBlockBytes));
}

/**
 * The stored form of one item: its length stays, but for items shorter than 16 bytes, which become 18.
 * @throws BuilderError BUILD_UNSUPPORTED: the item could not be read again
 */
export function encryptItem(item: Uint8Array, { key, iv }: BlobKey): Buffer {
  if (looksPadded(item))
    throw new BuilderError(
      "BUILD_UNSUPPORTED",
      "a file has 18 bytes and ends in 78 90, which can not be told from padding in an encrypted blob: build without --encrypt",
    );
  let plain = item;
  if (item.length < cipherBlockBytes) {
    const missing = cipherBlockBytes - item.length;
    plain = Buffer.concat([item, Buffer.alloc(missing, missing), padMark]);
  }
  return createCipheriv("aes-128-xts", key, iv).update(plain);
}
