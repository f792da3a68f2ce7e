export type SnapshotterErrorCode =
  | "SNAPSHOT_NOT_FOUND"
  | "SNAPSHOT_EXISTS"
  | "SNAPSHOT_INVALID"
  | "SNAPSHOT_STATE"
  | "SNAPSHOT_UNSUPPORTED"
  | "FILTER_SYNTAX"
  | "CONFIG_INVALID"
  | "STORE_BROKEN"
  | "BOOTSTRAP_INVALID"
  | "BOOTSTRAP_DEADLINE"
  | "IMAGE_UNKNOWN"
  | "IMAGE_DATA"
  | "INSTANCE_MOUNT"
  | "DAEMON_START"
  | "DAEMON_DEADLINE"
  | "SUPERVISOR";

/** What the world did to the snapshotter. The message says what, where and what to do; it never carries credentials. */
export class SnapshotterError extends Error {
  override readonly name = "SnapshotterError";
  readonly code: SnapshotterErrorCode;

  constructor(code: SnapshotterErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.code = code;
  }
}

/** The text of anything thrown, for a log line or a longer message. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
