export type NydusImageErrorCode = "IMAGE_ARGUMENT" | "IMAGE_UNSUPPORTED" | "IMAGE_FILE" | "IMAGE_SOURCE";

/** A command can not do what it was asked, for a reason the person at the command line can change. Ends the process with status 1. */
export class NydusImageError extends Error {
  override readonly name = "NydusImageError";
  readonly code: NydusImageErrorCode;

  constructor(code: NydusImageErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

/** An option that the original knows and this version does not do yet. */
export function unsupported(what: string, instead: string): NydusImageError {
  return new NydusImageError("IMAGE_UNSUPPORTED", `${what} is not supported by this version: ${instead}`);
}

/** `Error: message`, then the causes, as the original prints them. Source: spec/nydus-image.md, section 1.3 */
export function formatError(error: unknown): string {
  const chain: string[] = [];
  for (let next: unknown = error; next !== undefined && chain.length < 16; next = next instanceof Error ? next.cause : undefined) {
    const message = next instanceof Error ? next.message : String(next);
    if (!chain.at(-1)?.includes(message)) chain.push(message);
  }
  const [first, ...causes] = chain;
  if (causes.length === 0) return `Error: ${first}\n`;
  const lines = causes.length === 1 ? [`    ${causes[0]}`] : causes.map((cause, i) => `${String(i).padStart(5)}: ${cause}`);
  return `Error: ${first}\n\nCaused by:\n${lines.join("\n")}\n`;
}

/** Images that do not fit together; `merge` ends with status 2 for them. Source: spec/nydus-image.md, section 12.7 */
export class InconsistentError extends NydusImageError {
  constructor(message: string) {
    super("IMAGE_SOURCE", message);
  }
}
