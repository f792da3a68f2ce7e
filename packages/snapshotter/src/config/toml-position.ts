/**
 * The line (from 1) where a key of a TOML text is given, or where its nearest table begins; undefined when nothing of the path is there.
 * A plain scan by lines: it is used for messages only, so an exotic spelling costs a less exact line, nothing else.
 */
export function lineOfKey(text: string, path: readonly PropertyKey[]): number | undefined {
  const wanted = path.filter((part) => typeof part === "string");
  let best: { line: number; depth: number } | undefined;
  let table: string[] = [];
  for (const [index, line] of text.split("\n").entries()) {
    const header = /^\s*\[\[?\s*([^\]]+?)\s*\]\]?/.exec(line);
    if (header !== null) {
      table = splitKey(header[1]);
      consider(table, index + 1);
      continue;
    }
    const pair = /^\s*((?:"[^"]*"|'[^']*'|[A-Za-z0-9_-]+)(?:\s*\.\s*(?:"[^"]*"|'[^']*'|[A-Za-z0-9_-]+))*)\s*=/.exec(line);
    if (pair !== null) consider([...table, ...splitKey(pair[1])], index + 1);
  }
  return best?.line;

  function consider(key: readonly string[], line: number): void {
    if (key.length > wanted.length || !key.every((part, position) => part === wanted[position])) return;
    if (best === undefined || key.length > best.depth) best = { line, depth: key.length };
  }
}

function splitKey(key: string): string[] {
  return Array.from(key.matchAll(/"([^"]*)"|'([^']*)'|([A-Za-z0-9_-]+)/g), ([, double, single, bare]) => double ?? single ?? bare);
}
