/** Which requests a fault hits. Everything given must match. */
export interface FaultMatch {
  readonly method?: string;
  /** Searched in the path with query. */
  readonly path?: RegExp;
  /** Only requests with (true) or without (false) a Range header. */
  readonly ranged?: boolean;
}

/** What goes wrong. Fields combine where that makes sense. */
export interface Fault {
  /** Answer this status instead. */
  readonly status?: number;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string;
  /** Send nothing at all for this long (milliseconds), then go on as usual. `Infinity`: never answer. */
  readonly stallMs?: number;
  /** Go on only when this resolves: how a test sees several requests open at once, without a clock. */
  readonly hold?: (request: { readonly path: string; readonly range: string | undefined }) => Promise<void>;
  /** Cut the connection after this many bytes of the body; 0: before the header. */
  readonly resetAfterBytes?: number;
  /** Go silent after this many bytes of the body. */
  readonly stallAfterBytes?: number;
  /** Answer 200 with the whole content whatever Range says. */
  readonly ignoreRange?: boolean;
  /** Answer another range than asked for: shifted by this many bytes. */
  readonly shiftRange?: number;
  /** Answer a redirect to this URL; `{path}` stands for the path that was asked for. */
  readonly redirect?: { readonly to: string; readonly status?: 301 | 302 | 303 | 307 | 308 };
  /** Change the first byte of the body. */
  readonly corrupt?: boolean;
  /** How often; default: always. */
  readonly times?: number;
}

interface Rule {
  readonly match: FaultMatch;
  readonly fault: Fault;
  left: number;
  hits: number;
}

/** Faults in the order they were added; the first that matches and has hits left applies. */
export class Faults {
  readonly #rules: Rule[] = [];

  /** @returns how often it hit so far, and an end */
  add(match: FaultMatch, fault: Fault): { readonly hits: () => number; readonly remove: () => void } {
    const rule: Rule = { match, fault, left: fault.times ?? Number.POSITIVE_INFINITY, hits: 0 };
    this.#rules.push(rule);
    return {
      hits: () => rule.hits,
      remove: () => {
        rule.left = 0;
      },
    };
  }

  clear(): void {
    this.#rules.length = 0;
  }

  take(method: string, path: string, ranged: boolean): Fault | undefined {
    for (const rule of this.#rules) {
      const { match } = rule;
      if (rule.left <= 0 || (match.method !== undefined && match.method !== method)) continue;
      if ((match.path !== undefined && !match.path.test(path)) || (match.ranged !== undefined && match.ranged !== ranged)) continue;
      rule.left--;
      rule.hits++;
      return rule.fault;
    }
    return undefined;
  }
}
