/** Where keys stand: key path (`device.backend.config.host`, `backend.registry.mirrors.0.host`) to line, from 1. */
export type KeyLines = ReadonlyMap<string, number>;

/** @param text  valid JSON (the caller has parsed it) */
export function jsonKeyLines(text: string): KeyLines {
  const lines = new Map<string, number>();
  // One frame for each open object or array: the path so far, and what comes next in it.
  const stack: { readonly path: string; readonly array: boolean; index: number; key: string; expectKey: boolean }[] = [];
  let line = 1;
  const here = (): string => {
    const top = stack.at(-1);
    if (top === undefined) return "";
    const last = top.array ? String(top.index) : top.key;
    return top.path === "" ? last : `${top.path}.${last}`;
  };
  for (let at = 0; at < text.length; at++) {
    const character = text[at];
    const top = stack.at(-1);
    if (character === "\n") line += 1;
    else if (character === "{" || character === "[") {
      if (top?.array) lines.set(here(), line);
      stack.push({ path: here(), array: character === "[", index: 0, key: "", expectKey: character === "{" });
    } else if (character === "}" || character === "]") stack.pop();
    else if (character === "," && top !== undefined) {
      top.index += 1;
      top.expectKey = !top.array;
    } else if (character === '"') {
      const end = stringEnd(text, at);
      if (top?.expectKey) {
        top.key = JSON.parse(text.slice(at, end)) as string;
        top.expectKey = false;
        lines.set(here(), line);
      } else if (top?.array) lines.set(here(), line);
      at = end - 1;
    }
  }
  return lines;
}

function stringEnd(text: string, start: number): number {
  let at = start + 1;
  while (at < text.length && text[at] !== '"') at += text[at] === "\\" ? 2 : 1;
  return at + 1;
}

/** Table headers and `key =` lines; inline tables count as their key. */
export function tomlKeyLines(text: string): KeyLines {
  const lines = new Map<string, number>();
  const arrays = new Map<string, number>();
  let table = "";
  for (const [index, raw] of text.split("\n").entries()) {
    const line = raw.trim();
    const list = /^\[\[\s*([^\]]+?)\s*\]\]/.exec(line);
    const header = /^\[\s*([^[\]]+?)\s*\]/.exec(line);
    const key = /^((?:[A-Za-z0-9_-]+|"[^"]*")(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"))*)\s*=/.exec(line);
    if (list) {
      const name = clean(list[1]);
      const count = arrays.get(name) ?? 0;
      arrays.set(name, count + 1);
      table = `${name}.${count}`;
      lines.set(table, index + 1);
    } else if (header) {
      table = clean(header[1]);
      lines.set(table, index + 1);
    } else if (key) lines.set(table === "" ? clean(key[1]) : `${table}.${clean(key[1])}`, index + 1);
  }
  return lines;
}

function clean(path: string): string {
  return path
    .split(".")
    .map((part) => part.trim().replace(/^"|"$/g, ""))
    .join(".");
}

/** Line of a key, or of the nearest table around it. */
export function lineOf(lines: KeyLines, path: readonly PropertyKey[]): number | undefined {
  for (let length = path.length; length > 0; length--) {
    const line = lines.get(path.slice(0, length).map(String).join("."));
    if (line !== undefined) return line;
  }
  return undefined;
}
