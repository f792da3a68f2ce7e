import type { Random } from "./target.ts";

/** xorshift32: the same start gives the same numbers, on any machine. */
export function generator(start: number): Random {
  let state = (start * 2_654_435_761) >>> 0 || 1;
  return (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
}

export function pick<T>(list: readonly T[], random: Random): T {
  return list[random(list.length)] as T;
}

/** One to four changes: a bit, a byte, a boundary value of 2, 4 or 8 bytes, a copy of another place, or a cut. */
export function mutateBytes(original: Uint8Array, random: Random): Uint8Array {
  let bytes = Uint8Array.from(original);
  for (let change = random(4); change >= 0; change--) {
    const at = usedOffset(bytes, random);
    const kind = random(12);
    if (kind < 4) bytes[at] = (bytes[at] as number) ^ (1 << random(8));
    else if (kind < 6) bytes[at] = random(256);
    else if (kind < 9) writeBoundary(bytes, at, random);
    else if (kind < 11) bytes.copyWithin(at, usedOffset(bytes, random), usedOffset(bytes, random) + 8 * random(16));
    else bytes = bytes.slice(0, random(4) === 0 ? random(bytes.length) : Math.floor(random(bytes.length) / 512) * 512);
    if (bytes.length === 0) return bytes;
  }
  return bytes;
}

/** An offset near bytes that mean something: padding is mostly left alone. */
function usedOffset(bytes: Uint8Array, random: Random): number {
  let at = random(bytes.length);
  for (let tries = 0; tries < 8 && bytes[at] === 0; tries++) at = random(bytes.length);
  return at;
}

const limits = [
  0n,
  1n,
  0x7fn,
  0xffn,
  0xfffn,
  0x1000n,
  0xffffn,
  0x7fff_ffffn,
  0xffff_ffffn,
  2n ** 44n,
  2n ** 53n,
  2n ** 63n,
  2n ** 64n - 1n,
];

function writeBoundary(bytes: Uint8Array, at: number, random: Random): void {
  const view = new DataView(bytes.buffer);
  const value = pick(limits, random) + BigInt(random(3)) - 1n;
  const width = 2 << random(3);
  const aligned = Math.floor(at / width) * width;
  if (aligned + width > bytes.length) return;
  if (width === 2) view.setUint16(aligned, Number(BigInt.asUintN(16, value)), true);
  else if (width === 4) view.setUint32(aligned, Number(BigInt.asUintN(32, value)), true);
  else if (aligned + 8 <= bytes.length) view.setBigUint64(aligned, BigInt.asUintN(64, value), true);
}

const odd: readonly unknown[] = [
  ...[null, true, false, 0, -1, 1.5, 2 ** 31, 2 ** 53, 1e308, "", "\0", "..", "/", "a".repeat(5000), "\ud800", [], {}, [[]]],
  ...["__proto__", "constructor", "1e999", "0x10", "-0", "1h", "100MiB"],
];

/** Changes one or two values of a JSON text, and keeps it one. */
export function mutateJson(original: Uint8Array, random: Random): Uint8Array {
  const root: { value: unknown } = { value: JSON.parse(Buffer.from(original).toString()) };
  for (let change = random(2); change >= 0; change--) {
    const places: { holder: Record<string, unknown>; key: string }[] = [];
    collect(root as Record<string, unknown>, places);
    if (places.length === 0) break;
    const { holder, key } = pick(places, random);
    const kind = random(6);
    if (kind === 0) delete holder[key];
    else if (kind === 1) holder[pick(places, random).key] = holder[key];
    else if (kind === 2) addAnother(holder, String(pick(odd, random)), holder[key]);
    else if (kind === 3) holder[key] = structuredClone(valueAt(pick(places, random)));
    else holder[key] = structuredClone(pick(odd, random));
  }
  return Buffer.from(JSON.stringify(root.value) ?? "");
}

function valueAt({ holder, key }: { holder: Record<string, unknown>; key: string }): unknown {
  return holder[key] ?? null;
}

function collect(holder: Record<string, unknown>, places: { holder: Record<string, unknown>; key: string }[]): void {
  for (const [key, value] of Object.entries(holder)) {
    places.push({ holder, key });
    if (typeof value === "object" && value !== null) collect(value as Record<string, unknown>, places);
  }
}

/** A number as a key would make an array as long as the number says. */
function addAnother(holder: Record<string, unknown> | unknown[], key: string, value: unknown): void {
  if (Array.isArray(holder)) holder.push(value);
  else holder[key] = value;
}
