/** One `WWW-Authenticate` challenge; scheme and parameter names in lower case. */
export interface Challenge {
  readonly scheme: string;
  readonly params: ReadonlyMap<string, string>;
}

const TOKEN = /[!#$%&'*+\-.^_`|~0-9A-Za-z]+/y;

/**
 * Parses the values of `WWW-Authenticate`. Several challenges may stand in one value; quoted strings may hold commas, `=` and escapes.
 * What does not parse ends the list: what came before it is kept.
 *
 * Source: RFC 7235, section 2.1 and appendix C
 */
export function parseChallenges(values: readonly string[]): Challenge[] {
  return values.flatMap((value) => parseOne(value.slice(0, 16_384)));
}

function parseOne(text: string): Challenge[] {
  const challenges: { scheme: string; params: Map<string, string> }[] = [];
  let at = 0;
  const spaces = (): void => {
    while (text[at] === " " || text[at] === "\t") at++;
  };
  const token = (): string | undefined => {
    TOKEN.lastIndex = at;
    const found = TOKEN.exec(text)?.[0];
    if (found !== undefined) at += found.length;
    return found;
  };
  const value = (): string | undefined => {
    if (text[at] !== '"') return token();
    let out = "";
    for (at++; at < text.length; at++) {
      if (text[at] === '"') {
        at++;
        return out;
      }
      if (text[at] === "\\") at++;
      out += text[at] ?? "";
    }
    return undefined;
  };
  for (;;) {
    while (text[at] === " " || text[at] === "\t" || text[at] === ",") at++;
    if (at >= text.length) return challenges;
    const name = token();
    if (name === undefined) return challenges;
    spaces();
    const current = challenges.at(-1);
    if (text[at] === "=" && current !== undefined) {
      at++;
      spaces();
      const read = value();
      if (read === undefined) return challenges;
      current.params.set(name.toLowerCase(), read);
    } else {
      challenges.push({ scheme: name.toLowerCase(), params: new Map() });
    }
  }
}
