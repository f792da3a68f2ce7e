import assert from "node:assert/strict";

/** `u8` … `u64` are unsigned little-endian integers, `i64` is two's complement; a number is that many bytes of text, digest or padding. */
export type FieldType = "u8" | "u16" | "u32" | "u64" | "i64" | number;

export type Field = readonly [name: string, offset: number, type: FieldType];

/** Byte offset of each field by name, and the size of the whole record in bytes. */
export type Layout<Fields extends readonly Field[]> = { readonly [Name in Fields[number][0]]: number } & { readonly recordSize: number };

const sizes: Readonly<Record<Exclude<FieldType, number>, number>> = { u8: 1, u16: 2, u32: 4, u64: 8, i64: 8 };

/**
 * Turns the table of a record into the offsets of its fields. The table proves itself when the module loads: fields stand in
 * order, touch each other without hole or overlap, and end at `size`; padding is named like any other field.
 */
export function layout<const Fields extends readonly Field[]>(name: string, size: number, fields: Fields): Layout<Fields> {
  const offsets: Record<string, number> = { recordSize: size };
  let end = 0;
  for (const [field, offset, type] of fields) {
    assert(!(field in offsets), `${name}: field ${field} stands twice`);
    assert.equal(offset, end, `${name}: field ${field} is at ${offset}, the field before it ends at ${end}`);
    offsets[field] = offset;
    end = offset + (typeof type === "number" ? type : sizes[type]);
  }
  assert.equal(end, size, `${name}: the fields end at ${end}, the record at ${size}`);
  return Object.freeze(offsets) as Layout<Fields>;
}
