/** Bounds of this package. Each names its unit; what happens beyond it stands in the README. */

/** A manifest or index larger than this is refused; the distribution specification asks for at least 4 MiB. */
export const MANIFEST_BYTES_MAX = 8 * 1024 * 1024;

/** Token answers, error bodies, tag lists. */
export const ANSWER_BYTES_MAX = 1024 * 1024;
export const ERROR_BODY_BYTES_MAX = 64 * 1024;

/** One range read into memory. */
export const READ_BYTES_MAX = 64 * 1024 * 1024;

/** How much of a blob is thrown away when a server ignores `Range`. Beyond it the read fails with REGISTRY_RANGE. */
export const SKIP_BYTES_MAX = 256 * 1024 * 1024;

/** Redirects of one request. */
export const REDIRECTS_MAX = 5;

/** A redirect target without an expiry of its own is asked for again after this. */
export const REDIRECT_TTL_DEFAULT_MS = 300_000;
/** A redirect target is dropped this long before it expires. */
export const REDIRECT_EXPIRY_MARGIN_MS = 10_000;
export const REDIRECTS_CACHED_MAX = 10_000;

/** Requests to one host at once, and how many of them prefetch may hold: the rest is the reserved share of demand. */
export const REQUESTS_PER_HOST_MAX = 32;
export const PREFETCH_REQUESTS_PER_HOST_MAX = 12;
/** Requests to one host however often it says 429: below it reads of one container would queue behind each other. */
export const REQUESTS_PER_HOST_MIN = 4;
/** Answers 429 within this time count as one. */
export const SLOW_DOWN_WINDOW_MS = 1_000;
/** Time without a 429 that gives one place back: from the minimum to the maximum in about two and a half minutes. */
export const SPEED_UP_MS = 5_000;
/** Hosts whose traffic is remembered; beyond it those without any are forgotten. */
export const HOSTS_WATCHED_MAX = 1_000;
/** How long the body of a prefetch request may rest, in all, for readers: within what servers allow a slow client (nginx: 60 s). */
export const PREFETCH_REST_MAX_MS = 20_000;
/** The same of what a reader will want soon. */
export const AHEAD_REST_MAX_MS = 5_000;
/** How long no reader must have waited before prefetch goes on: the reads of a container come in bursts with pauses of this order. */
export const DEMAND_IDLE_MS = 20;
/** Beside readers without a pause one body takes one piece so often: about 60 KB, 2.4 ms of a link of 200 Mbit/s, so 0.6 MB/s. */
export const PREFETCH_TURN_MS = 100;
/**
 * What a connection of prefetch receives ahead of its reader, in the system's buffer (59 KB come for 32 KiB) and in those of Node and undici,
 * each of which also takes one piece more. It is what six connections that rest still bring: 0.4 to 0.8 MB, where the kernel's own choice
 * let eight of them bring the 8 MB they had asked for, 340 ms of a link of 200 Mbit/s. Six fill it at 14 ms of round-trip time.
 */
export const PREFETCH_RECEIVED_BYTES = 32 * 1024;
export const PREFETCH_BUFFERED_BYTES = 16 * 1024;
/** Requests that wait for a host. Beyond it: REGISTRY_BUSY. */
export const QUEUE_PER_HOST_MAX = 8192;

/** Time for a whole call if the caller names none. */
export const DEADLINE_DEFAULT_MS = 60_000;
/** Connection set-up; a mirror gets less because there is another host to turn to. */
export const CONNECT_TIMEOUT_DEFAULT_MS = 5_000;
export const MIRROR_CONNECT_TIMEOUT_MS = 1_000;
/** Silence on one connection: until the header, and between two pieces of a body. */
export const IDLE_TIMEOUT_DEFAULT_MS = 5_000;

/** A mirror that has not answered after this is raced by the next host; a slow but living mirror earns up to the maximum. */
export const HEDGE_MIN_MS = 150;
export const HEDGE_MAX_MS = 2_000;

export const RETRY_LIMIT_DEFAULT = 3;
export const RETRY_BASE_MS = 100;
export const RETRY_MAX_MS = 5_000;

/** Times an interrupted blob stream is taken up again without a byte of progress in between. */
export const RESUMES_WITHOUT_PROGRESS_MAX = 5;

/** Share of a token's life after which it is renewed, and the random part taken off it. */
export const TOKEN_RENEW_SHARE = 0.8;
export const TOKEN_RENEW_JITTER_SHARE = 0.1;
/** Life of a token whose answer names none (distribution specification). */
export const TOKEN_LIFE_DEFAULT_MS = 60_000;
/** After a failed token request the next one waits this long, doubled each time up to the maximum. */
export const TOKEN_RETRY_MIN_MS = 1_000;
export const TOKEN_RETRY_MAX_MS = 60_000;
export const TOKENS_CACHED_MAX = 1_000;

/** A credential helper has this long to answer, and this much to say. */
export const HELPER_DEADLINE_MS = 10_000;
export const HELPER_OUTPUT_BYTES_MAX = 1024 * 1024;

/** Bytes of one piece of a chunked upload, kept in memory to be sent again. */
export const UPLOAD_PIECE_BYTES = 8 * 1024 * 1024;

/**
 * Objects up to this size go to an object store in one PUT, larger ones in parts of it. Several parts are in memory until the store has them:
 * 64 MiB. Stores take parts of 5 MiB to 5 GiB, and 10000 of one object: beyond 156 GiB parts are larger.
 */
export const OBJECT_PART_BYTES = 16 * 1024 * 1024;
export const OBJECT_PARTS_AT_ONCE = 4;
export const OBJECT_PARTS_MAX = 10_000;
