/**
 * Finds the line of a key in a TOML text, for messages. A reader for people, not a parser: it knows table headers, `key =` and dotted or
 * quoted keys, and gives the nearest line it finds.
 *
 * @param path  keys from the top, such as `["host", "https://mirror", "ca"]`
 * @returns a line from 1, or undefined
 */
export function lineOf(text: string, path: readonly string[]): number | undefined {
  let table: string[] = [];
  let best: { depth: number; line: number } | undefined;
  const consider = (found: string[], line: number): void => {
    const depth = found.length;
    if (depth > path.length || !found.every((key, index) => key === path[index])) return;
    if (best === undefined || depth > best.depth) best = { depth, line };
  };
  for (const [index, raw] of text.split("\n").entries()) {
    const line = raw.trim();
    if (line.startsWith("#") || line === "") continue;
    const header = /^\[\[?(.*?)\]\]?\s*(?:#.*)?$/.exec(line);
    if (header !== null && line.startsWith("[")) {
      table = splitKey(header[1] ?? "");
      consider(table, index + 1);
      continue;
    }
    const key = keyBefore(line);
    if (key !== undefined) consider([...table, ...splitKey(key)], index + 1);
  }
  return best?.line;
}

/** What stands before the first `=` outside quotes. */
function keyBefore(line: string): string | undefined {
  let quote = "";
  for (let at = 0; at < line.length; at++) {
    const char = line[at] as string;
    if (quote !== "") {
      if (char === "\\" && quote === '"') at++;
      else if (char === quote) quote = "";
    } else if (char === '"' || char === "'") quote = char;
    else if (char === "=") return line.slice(0, at);
  }
  return undefined;
}

function splitKey(text: string): string[] {
  return [...text.matchAll(/"((?:[^"\\]|\\.)*)"|'([^']*)'|([A-Za-z0-9_-]+)/g)].map(
    ([, double, single, bare]) => double ?? single ?? bare ?? "",
  );
}
