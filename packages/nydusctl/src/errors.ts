/**
 * - `CTL_USAGE`: the command line is wrong (exit code 2)
 * - `CTL_FILE`: a file named on the command line can't be read
 * - `CTL_VALUE`: an option has a value that makes no sense
 * - `CTL_ANSWER`: the snapshotter does not answer, or not with an explanation
 */
export type NydusctlErrorCode = "CTL_USAGE" | "CTL_FILE" | "CTL_VALUE" | "CTL_ANSWER";

/** A failure that a person can mend; one line. */
export class NydusctlError extends Error {
  override readonly name = "NydusctlError";
  readonly code: NydusctlErrorCode;

  constructor(code: NydusctlErrorCode, message: string, options: { readonly cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
  }
}
