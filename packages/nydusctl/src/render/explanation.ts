import type { Explanation } from "@nydus-ts/nydus-api";

type Layer = Explanation["layers"][number];

/** Text of `nydusctl explain`. */
export function explanationText(explanation: Explanation): string {
  const { image, snapshot, kind, mountpoint, broken, layers } = explanation;
  const lazy = layers.some(({ mode }) => mode === "lazy");
  const head = [
    ["image", image ?? "unknown: no client named it"],
    ["snapshot", `${snapshot} (${kind})`],
    ["served", served(explanation)],
    ...(lazy ? [["mounted", mountpoint ?? "not yet: the first container mounts it"]] : []),
    ...(broken === null ? [] : [["broken", broken]]),
  ].map(([label, text]) => `${(label as string).padEnd(10)}${text}`);
  const rows = [
    ["LAYER", "FORMAT", "MODE", "HERE", "OF", "WHY"],
    ...layers.map((layer, index) => [
      `${index + 1} ${(layer.digest ?? "").replace(/^sha256:/, "").slice(0, 12)}`.trim(),
      layer.format,
      layer.mode,
      mebibytes(layer.bytesLocal),
      mebibytes(layer.bytesTotal),
      layer.reason,
    ]),
  ];
  return `${[...head, "", ...table(rows)].join("\n")}\n`;
}

function served({ layers }: Explanation): string {
  const blobs = layers.filter(({ format }) => format === "nydus-blob");
  if (!layers.some(({ mode }) => mode === "lazy"))
    return "unpacked on the disk, as by overlayfs: no layer is of a format that this snapshotter loads lazily";
  const sum = (part: (layer: Layer) => number | null): number => blobs.reduce((total, layer) => total + (part(layer) ?? 0), 0);
  const total = sum(({ bytesTotal }) => bytesTotal);
  const local = sum(({ bytesLocal }) => bytesLocal);
  const unpacked = layers.filter(({ mode }) => mode === "overlay").length;
  const rest = unpacked === 0 ? "" : `; ${unpacked} layers are unpacked`;
  return total === 0 ? `lazily${rest}` : `lazily: ${Math.floor((local * 100) / total)} % of ${mebibytes(total)} is here${rest}`;
}

const mebibytes = (bytes: number | null): string => (bytes === null ? "?" : `${(bytes / 1_048_576).toFixed(1)} MiB`);

/** Columns as wide as their widest cell; the last one as it comes. */
function table(rows: readonly (readonly string[])[]): string[] {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => (row[column] ?? "").length)));
  return rows.map((row) => row.map((cell, column) => (column === row.length - 1 ? cell : cell.padEnd(widths[column] ?? 0))).join("  "));
}
