/**
 * CRC-32C (Castagnoli, reflected), which the format stores per chunk. `node:zlib` has only the other CRC-32.
 * Eight tables are read per eight bytes ("slicing by 8"): measured 1.0 GB/s against 0.35 GB/s with one table.
 * Source: spec/rafs.md, section 4.4; check value: "123456789" gives 0xE3069283.
 */
const polynomial = 0x82f63b78;
const tables = buildTables();
const noWords = new Int32Array(0);

function buildTables(): Int32Array[] {
  const all = Array.from({ length: 8 }, () => new Int32Array(256));
  for (let byte = 0; byte < 256; byte++) {
    let crc = byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ polynomial : crc >>> 1;
    all[0][byte] = crc;
  }
  for (let slice = 1; slice < 8; slice++) {
    for (let byte = 0; byte < 256; byte++) {
      const previous = all[slice - 1][byte];
      all[slice][byte] = all[0][previous & 0xff] ^ (previous >>> 8);
    }
  }
  return all;
}

/** CRC-32C of `bytes` as an unsigned number. */
export function crc32c(bytes: Uint8Array): number {
  const [t0, t1, t2, t3, t4, t5, t6, t7] = tables;
  const length = bytes.length;
  let crc = -1;
  let at = 0;
  while (at < length && ((bytes.byteOffset + at) & 3) !== 0) crc = t0[(crc ^ bytes[at++]) & 0xff] ^ (crc >>> 8);
  const pairs = ((length - at) >>> 3) * 2;
  const words = pairs > 0 ? new Int32Array(bytes.buffer, bytes.byteOffset + at, pairs) : noWords;
  for (let i = 0; i < pairs; i += 2) {
    const low = crc ^ words[i];
    const high = words[i + 1];
    crc =
      t7[low & 0xff] ^
      t6[(low >>> 8) & 0xff] ^
      t5[(low >>> 16) & 0xff] ^
      t4[low >>> 24] ^
      t3[high & 0xff] ^
      t2[(high >>> 8) & 0xff] ^
      t1[(high >>> 16) & 0xff] ^
      t0[high >>> 24];
  }
  at += pairs * 4;
  while (at < length) crc = t0[(crc ^ bytes[at++]) & 0xff] ^ (crc >>> 8);
  return ~crc >>> 0;
}
