export type RegistryErrorCode =
  | "REGISTRY_REFERENCE"
  | "REGISTRY_CONFIG"
  | "REGISTRY_CREDENTIALS"
  | "REGISTRY_UNAUTHORIZED"
  | "REGISTRY_FORBIDDEN"
  | "REGISTRY_NOT_FOUND"
  | "REGISTRY_REFUSED"
  | "REGISTRY_RATE_LIMITED"
  | "REGISTRY_SERVER"
  | "REGISTRY_UNREACHABLE"
  | "REGISTRY_TLS"
  | "REGISTRY_DEADLINE"
  | "REGISTRY_BUSY"
  | "REGISTRY_RANGE"
  | "REGISTRY_DIGEST"
  | "REGISTRY_PROTOCOL"
  | "REGISTRY_TOO_LARGE"
  | "REGISTRY_LAYOUT"
  | "REGISTRY_ABORTED"
  | "REGISTRY_CLOSED";

/** What was asked, without credentials: user information and query values are gone from `url`. */
export interface RequestSummary {
  readonly method: string;
  readonly url: string;
  readonly status?: number;
  readonly attempt: number;
}

export interface RegistryErrorDetails {
  readonly retryable?: boolean;
  readonly hint?: string;
  readonly request?: RequestSummary;
  /** From `Retry-After`. */
  readonly retryAfterMs?: number;
  readonly cause?: unknown;
}

/** A request to a registry failed for a reason outside this program. `message` and `request.url` never carry credentials. */
export class RegistryError extends Error {
  override readonly name = "RegistryError";
  readonly code: RegistryErrorCode;
  /** Whether the same call may succeed later; decided where the cause is known. */
  readonly retryable: boolean;
  /** What a person can do. */
  readonly hint: string | undefined;
  readonly request: RequestSummary | undefined;
  readonly retryAfterMs: number | undefined;

  constructor(code: RegistryErrorCode, what: string, details: RegistryErrorDetails = {}) {
    const { request, hint } = details;
    const where = request === undefined ? "" : ` (${request.method} ${request.url}, attempt ${request.attempt})`;
    super(`${what}${where}${hint === undefined ? "" : `: ${hint}`}`, details.cause === undefined ? undefined : { cause: details.cause });
    this.code = code;
    this.retryable = details.retryable ?? false;
    this.hint = hint;
    this.request = request;
    this.retryAfterMs = details.retryAfterMs;
  }
}

/** Removes user information and the values of the query: pre-signed URLs and uploads carry secrets there. */
export function withoutSecrets(url: URL | string): string {
  try {
    const clean = new URL(url);
    clean.username = "";
    clean.password = "";
    clean.hash = "";
    for (const key of [...new Set(clean.searchParams.keys())]) {
      if (!PLAIN_QUERY.has(key)) clean.searchParams.set(key, "***");
    }
    return clean.href;
  } catch {
    return "(a URL that does not parse)";
  }
}

const PLAIN_QUERY = new Set(["digest", "mount", "from", "ns", "n", "last", "artifactType", "service", "scope"]);

/** The text of the first element of this name, in XML as object stores write it: no attributes, no CDATA. */
export function xmlText(xml: string, tag: string): string | undefined {
  const found = new RegExp(`<${tag}>([^<]*)</${tag}>`).exec(xml)?.[1];
  const entities: Record<string, string> = { lt: "<", gt: ">", quot: '"', apos: "'", amp: "&" };
  return found?.replace(/&(?:(lt|gt|quot|apos|amp)|#(\d{1,6})|#x([0-9a-fA-F]{1,5}));/g, (_, name, decimal, hex) =>
    name !== undefined ? entities[name]! : String.fromCodePoint(Math.min(0x10ffff, decimal ? Number(decimal) : Number.parseInt(hex, 16))),
  );
}

/** A registry's own words from an error answer, one line, at most 300 characters, without what looks like a secret. */
export function serverWords(body: string): string {
  let text = body;
  try {
    const parsed: unknown = JSON.parse(body);
    const errors = (parsed as { errors?: { code?: unknown; message?: unknown }[] }).errors;
    if (Array.isArray(errors)) {
      text = errors
        .map((entry) => [entry?.code, entry?.message].filter((part) => typeof part === "string" && part !== "").join(" "))
        .filter((line) => line !== "")
        .join("; ");
    }
  } catch {
    // Not JSON. Object stores answer XML, with what was signed beside these two; some proxies answer HTML.
    if (/^\s*</.test(body)) text = ["Code", "Message"].flatMap((tag) => xmlText(body, tag) ?? []).join(" ");
  }
  return text
    .replace(/[\x00-\x1f\x7f]+/g, " ")
    .replace(/\b(bearer|basic)\s+[\w\-.~+/=]+/gi, "$1 ***")
    .replace(/\beyJ[\w-]+\.[\w-]+\.[\w-]+/g, "***")
    .slice(0, 300)
    .trim();
}
