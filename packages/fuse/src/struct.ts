import assert from "node:assert/strict";

/** `u16`, `u32`, `u64` are in the machine's order, which is little-endian on all machines this package runs on; a number is that many bytes. */
export type StructField = readonly [name: string, offset: number, type: "u16" | "u32" | "u64" | number];

/** Byte offset of each field by name, and `size` of the whole. */
export type Struct<Fields extends readonly StructField[]> = { readonly [Name in Fields[number][0]]: number } & { readonly size: number };

const sizes = { u16: 2, u32: 4, u64: 8 } as const;

/**
 * Turns the table of a structure into offsets, counted from `base` (where the structure begins in its buffer). It proves itself on load:
 * no hole, no overlap, the end where it should be.
 */
export function struct<const Fields extends readonly StructField[]>(
  name: string,
  size: number,
  base: number,
  fields: Fields,
): Struct<Fields> {
  const offsets: Record<string, number> = { size };
  let end = 0;
  for (const [field, offset, type] of fields) {
    assert.equal(offset, end, `${name}: field ${field} is at ${offset}, the one before it ends at ${end}`);
    assert(!(field in offsets) || field === "size", `${name}: field ${field} stands twice`);
    offsets[field] = base + offset;
    end = offset + (typeof type === "number" ? type : sizes[type]);
  }
  assert.equal(end, size, `${name}: the fields end at ${end}, the structure at ${size}`);
  return Object.freeze(offsets) as Struct<Fields>;
}
