/**
 * - `API_UNREACHABLE`: no daemon answers at the socket (missing file, connection refused, connection cut before an answer)
 * - `API_TIMEOUT`: the daemon did not answer in time
 * - `API_REFUSED`: the daemon answered with a status of 400 or more; `status`, `daemonCode` and `daemonMessage` are set
 * - `API_PROTOCOL`: the answer is not what the API says it should be
 * - `API_ABORTED`: the caller's signal fired
 */
export type NydusApiErrorCode = "API_UNREACHABLE" | "API_TIMEOUT" | "API_REFUSED" | "API_PROTOCOL" | "API_ABORTED";

export interface NydusApiErrorDetails {
  readonly status?: number | undefined;
  readonly daemonCode?: string | undefined;
  readonly daemonMessage?: string | undefined;
  readonly cause?: unknown;
}

/** A call of nydusd's API failed for a reason outside this program. The message carries no request body, so no configuration and no secret. */
export class NydusApiError extends Error {
  override readonly name = "NydusApiError";
  readonly code: NydusApiErrorCode;
  /** HTTP status of the answer, when there was one. */
  readonly status: number | undefined;
  /** The daemon's own code (`MOUNT_EXISTS`; `UNDEFINED` from the original daemon). */
  readonly daemonCode: string | undefined;
  /** The daemon's own words. */
  readonly daemonMessage: string | undefined;

  constructor(code: NydusApiErrorCode, message: string, details: NydusApiErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.code = code;
    this.status = details.status;
    this.daemonCode = details.daemonCode;
    this.daemonMessage = details.daemonMessage;
  }
}
