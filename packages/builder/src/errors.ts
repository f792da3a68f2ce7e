export type BuilderErrorCode =
  | "BUILD_SOURCE"
  | "BUILD_TAR"
  | "BUILD_XATTR"
  | "BUILD_LIMIT"
  | "BUILD_OUTPUT"
  | "BUILD_INCONSISTENT"
  | "BUILD_UNSUPPORTED";

/** A build failed for a reason outside this program: the source, the disk, or images that do not fit together. The message says which path. */
export class BuilderError extends Error {
  override readonly name = "BuilderError";
  readonly code: BuilderErrorCode;

  constructor(code: BuilderErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

/** Runs `step` and, if it fails, says what was being done to what, keeping the cause. */
export async function describeFailure<T>(code: BuilderErrorCode, what: string, step: () => Promise<T>): Promise<T> {
  try {
    return await step();
  } catch (cause) {
    if (cause instanceof BuilderError) throw cause;
    throw new BuilderError(code, `${what}: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
}
