/** What can go wrong outside this program, and the HTTP status the API answers with. Source of the statuses: spec/nydusd.md 4.2. */
export const nydusdErrors = {
  /** The configuration is malformed; the message has one line for every fault: file, line, key, expectation, finding. */
  CONFIG_INVALID: 500,
  /** A request of the API has the wrong method, body or query. */
  REQUEST_INVALID: 400,
  /** The body of a request is larger than `requestBytesMax`. */
  REQUEST_TOO_LARGE: 413,
  ROUTE_UNKNOWN: 404,
  /** No metrics object of that id, or an id is needed because there are several. */
  METRICS_NOT_FOUND: 404,
  /** The daemon is in a state that does not allow this (a second start, a takeover while running). */
  STATE_REFUSED: 400,
  /** This build or this mode has no such thing. */
  UNSUPPORTED: 501,
  /** The kernel has not finished FUSE INIT, or the daemon is stopping. */
  NOT_READY: 503,
  /** A handler did not finish in time. */
  DEADLINE: 503,
  MOUNT_EXISTS: 500,
  MOUNT_NOT_FOUND: 500,
  /** More images than the virtual tree has indexes (255), or another limit of the daemon. */
  MOUNT_LIMIT: 500,
  /** The bootstrap can't be opened. */
  MOUNT_SOURCE: 500,
  /** The bootstrap is damaged or of a kind this build does not serve. */
  MOUNT_IMAGE: 500,
  /** The image's data can't be reached: back end or cache directory. */
  MOUNT_BACKEND: 500,
  /** The host mount point, or the mount itself. */
  MOUNTPOINT: 500,
  /** Another daemon answers on the API socket, or the socket can't be made. */
  API_SOCKET: 500,
  /** No supervisor is configured, or it can't be reached. */
  SUPERVISOR: 500,
  /** What the supervisor sent is no state of a daemon. */
  TAKEOVER_STATE: 500,
  /** A FUSE worker failed. */
  ENGINE: 500,
} as const;

export type NydusdErrorCode = keyof typeof nydusdErrors;

/** A failure for a reason outside this program: message = what, where, what to do. Carries no secrets. */
export class NydusdError extends Error {
  override readonly name = "NydusdError";
  readonly code: NydusdErrorCode;

  constructor(code: NydusdErrorCode, message: string, options: { readonly cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
  }

  /** HTTP status the API answers with. */
  get status(): number {
    return nydusdErrors[this.code];
  }
}

/** One line for logs and answers: the messages of an error and its causes, without repeating what is already said. */
export function describeError(error: unknown): string {
  const parts: string[] = [];
  let current: unknown = error;
  for (let depth = 0; current !== undefined && current !== null && depth < 5; depth++) {
    const text = current instanceof Error ? current.message || current.name : String(current);
    if (!parts.some((part) => part.includes(text))) parts.push(text);
    current = current instanceof Error ? current.cause : undefined;
  }
  return parts.join(": ");
}
