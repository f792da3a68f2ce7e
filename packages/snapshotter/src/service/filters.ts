import { SnapshotterError } from "../errors.ts";

/** What a filter sees of an object: the value of a field path, undefined when the object does not have it. */
export type FieldLookup = (path: readonly string[]) => string | undefined;
export type Filter = (lookup: FieldLookup) => boolean;

/**
 * Compiles List filters: a list is OR, a comma is AND, no filter or an empty one matches everything. Source: spec/containerd.md 6.
 * @throws SnapshotterError FILTER_SYNTAX, with the position
 */
export function compileFilters(texts: readonly string[]): Filter {
  if (texts.length === 0) return () => true;
  const filters = texts.map((text) => new Parser(text).filter());
  return (lookup) => filters.some((filter) => filter(lookup));
}

const FIELD = /[A-Za-z0-9_]/;
const SPACE = /\s/;
const ESCAPES: Readonly<Record<string, string>> = { a: "\x07", b: "\b", f: "\f", n: "\n", r: "\r", t: "\t", v: "\v", "\\": "\\", '"': '"' };

class Parser {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  filter(): Filter {
    this.#space();
    if (this.#at === this.#text.length) return () => true;
    const selectors = [this.#selector()];
    for (this.#space(); this.#at < this.#text.length; this.#space()) {
      if (this.#text[this.#at] !== ",") this.#fail("expected a comma or the end");
      this.#at++;
      selectors.push(this.#selector());
    }
    return (lookup) => selectors.every((selector) => selector(lookup));
  }

  #selector(): Filter {
    const path = this.#path();
    this.#space();
    const operator = this.#text.slice(this.#at, this.#at + 2);
    switch (operator) {
      case "==":
      case "!=":
      case "~=":
        break;
      default:
        if (this.#at < this.#text.length && this.#text[this.#at] !== ",") this.#fail('expected "==", "!=", "~=", a comma or the end');
        return (lookup) => lookup(path) !== undefined;
    }
    this.#at += 2;
    this.#space();
    const value = this.#value(operator === "~=");
    if (operator === "==") return (lookup) => lookup(path) === value;
    if (operator === "!=") return (lookup) => lookup(path) !== value;
    const expression = regularExpression(value);
    return (lookup) => expression?.test(lookup(path) ?? "") ?? false;
  }

  #path(): string[] {
    const fields = [this.#field()];
    for (this.#space(); this.#text[this.#at] === "."; this.#space()) {
      this.#at++;
      fields.push(this.#field());
    }
    return fields;
  }

  #field(): string {
    this.#space();
    if (this.#text[this.#at] === '"') return this.#quoted('"');
    const start = this.#at;
    while (this.#at < this.#text.length && FIELD.test(this.#text[this.#at])) this.#at++;
    if (this.#at === start) this.#fail("expected a field name");
    return this.#text.slice(start, this.#at);
  }

  #value(pattern: boolean): string {
    const first = this.#text[this.#at];
    if (first === '"' || (pattern && (first === "/" || first === "|"))) return this.#quoted(first);
    const start = this.#at;
    while (this.#at < this.#text.length && this.#text[this.#at] !== "," && !SPACE.test(this.#text[this.#at])) this.#at++;
    if (this.#at === start) this.#fail("expected a value");
    return this.#text.slice(start, this.#at);
  }

  #quoted(delimiter: string): string {
    const start = this.#at++;
    let value = "";
    while (true) {
      const char = this.#text[this.#at++];
      if (char === undefined) {
        this.#at = start;
        this.#fail("quote without an end");
      }
      if (char === delimiter) return value;
      if (char !== "\\") value += char;
      // In /…/ and |…| only the delimiter is escaped; everything else belongs to the expression.
      else if (delimiter !== '"') value += this.#text[this.#at] === delimiter ? this.#text[this.#at++] : char;
      else value += this.#escape();
    }
  }

  #escape(): string {
    const char = this.#text[this.#at++];
    const simple = char === undefined ? undefined : ESCAPES[char];
    if (simple !== undefined) return simple;
    if (char === "x") return String.fromCodePoint(this.#digits(2, 16));
    if (char === "u") return String.fromCodePoint(this.#digits(4, 16));
    if (char === "U") return String.fromCodePoint(this.#digits(8, 16));
    if (char !== undefined && char >= "0" && char <= "7") {
      this.#at--;
      return String.fromCodePoint(this.#digits(3, 8));
    }
    this.#at--;
    return this.#fail("unknown escape");
  }

  #digits(count: number, radix: 8 | 16): number {
    const text = this.#text.slice(this.#at, this.#at + count);
    const valid = radix === 16 ? /^[0-9a-fA-F]+$/ : /^[0-7]+$/;
    const number = Number.parseInt(text, radix);
    if (text.length !== count || !valid.test(text) || number > 0x10ffff) this.#fail("bad number in an escape");
    this.#at += count;
    return number;
  }

  #space(): void {
    while (this.#at < this.#text.length && SPACE.test(this.#text[this.#at])) this.#at++;
  }

  #fail(expectation: string): never {
    throw new SnapshotterError("FILTER_SYNTAX", `filter ${JSON.stringify(this.#text)}: ${expectation} at character ${this.#at + 1}`);
  }
}

/** A bad expression matches nothing. containerd's are RE2; the common subset means the same here. */
function regularExpression(source: string): RegExp | undefined {
  try {
    return new RegExp(source, "u");
  } catch {
    return undefined;
  }
}
