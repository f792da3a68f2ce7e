import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** Files of golden cases, as `case/file` and bytes, whose path in the case matches. */
export function goldenFiles(
  golden: string | undefined,
  pattern: RegExp,
): { readonly name: string; readonly bytes: Buffer; readonly directory: string }[] {
  if (golden === undefined) return [];
  const found: { name: string; bytes: Buffer; directory: string }[] = [];
  for (const name of readdirSync(join(golden, "cases"))) {
    const directory = join(golden, "cases", name);
    for (const file of listed(directory, "")) {
      if (pattern.test(file)) found.push({ name: `${name}/${file}`, bytes: readFileSync(join(directory, file)), directory });
    }
  }
  return found;
}

/** A file of golden `sources/`; undefined without golden data. */
export function goldenSource(golden: string | undefined, name: string): Buffer | undefined {
  const path = golden === undefined ? undefined : join(golden, "sources", name);
  return path !== undefined && existsSync(path) ? readFileSync(path) : undefined;
}

function listed(directory: string, below: string): string[] {
  return readdirSync(join(directory, below), { withFileTypes: true }).flatMap((entry) => {
    const path = join(below, entry.name);
    return entry.isDirectory() ? listed(directory, path) : [path];
  });
}
