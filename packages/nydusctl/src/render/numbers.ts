/** Shortest form without exponent. A figure that does not exist yet (nothing prefetched) is `-`. */
export function float(value: number): string {
  if (!Number.isFinite(value)) return "-";
  const text = String(value);
  return text.includes("e") ? value.toFixed(20).replace(/0+$/, "").replace(/\.$/, "") : text;
}

/** Integer division; 0 for a zero divisor. */
export function quotient(dividend: number, divisor: number): number {
  return divisor === 0 ? 0 : Math.floor(dividend / divisor);
}

/** A label and its value, the value at a fixed column. */
export function line(label: string, value: unknown, column: number): string {
  return `${label.padEnd(column)}${value}`;
}

/** A row of a table: the first cell `first` wide, the others eight, all left aligned. */
export function row(label: string, cells: readonly (string | number)[], first: number): string {
  return label.padEnd(first) + cells.map((cell) => String(cell).padEnd(8)).join("");
}
