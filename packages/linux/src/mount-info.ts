import { readFileSync } from "node:fs";

/** One line of /proc/<pid>/mountinfo. Source: proc(5). */
export interface MountInfoEntry {
  readonly mountId: number;
  readonly parentId: number;
  /** Device number of the file system, as `stat` shows it: `major:minor`. A FUSE connection's id is its minor number. */
  readonly major: number;
  readonly minor: number;
  /** Path within the file system that is the root of this mount. */
  readonly root: string;
  readonly mountpoint: string;
  readonly options: readonly string[];
  /** `shared:1`, `master:2` … */
  readonly propagation: readonly string[];
  readonly type: string;
  readonly source: string;
  readonly superOptions: readonly string[];
}

/** The mounts this process (or `pid`) sees, in the kernel's order: a later one at the same place covers an earlier one. */
export function mountInfo(pid: number | "self" = "self"): MountInfoEntry[] {
  return parseMountInfo(readFileSync(`/proc/${pid}/mountinfo`, "utf8"));
}

/** Parses mountinfo text; lines of another form are left out. */
export function parseMountInfo(text: string): MountInfoEntry[] {
  return text.split("\n").flatMap((line) => {
    const fields = line.split(" ");
    const dash = fields.indexOf("-", 6);
    if (fields.length < 10 || dash < 0) return [];
    const [major = "0", minor = "0"] = (fields[2] as string).split(":");
    return [
      {
        mountId: Number(fields[0]),
        parentId: Number(fields[1]),
        major: Number(major),
        minor: Number(minor),
        root: unescapeOctal(fields[3] as string),
        mountpoint: unescapeOctal(fields[4] as string),
        options: (fields[5] as string).split(","),
        propagation: fields.slice(6, dash),
        type: unescapeOctal(fields[dash + 1] ?? ""),
        source: unescapeOctal(fields[dash + 2] ?? ""),
        superOptions: (fields[dash + 3] ?? "").split(",").map(unescapeOctal),
      },
    ];
  });
}

/** The mount that covers exactly this path (the last one there), or undefined when nothing is mounted on it. */
export function findMount(mountpoint: string): MountInfoEntry | undefined {
  return mountInfo().findLast((entry) => entry.mountpoint === mountpoint);
}

// The kernel writes space, tab, newline and backslash of names as \040 and so on, byte by byte.
function unescapeOctal(field: string): string {
  if (!field.includes("\\")) return field;
  const bytes = Buffer.from(field).toString("latin1");
  const unescaped = bytes.replace(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)));
  return Buffer.from(unescaped, "latin1").toString("utf8");
}
