import assert from "node:assert/strict";

/** Bytes of a configuration text. The original refuses larger files too. Beyond it: CONFIG_INVALID. */
export const configBytesMax = 1024 * 1024;

/** Connections to the API socket at one time. Beyond it: closed at once. */
export const apiConnectionsMax = 256;

/** Milliseconds an API handler may take, mount and umount excepted. Beyond it: 503 DEADLINE; the work goes on in the background. */
export const handlerDeadlineMs = 10_000;

/** Milliseconds a mount or remount may take, `probe` included. Beyond it: 503 DEADLINE. */
export const mountDeadlineMs = 60_000;

/** Milliseconds `probe` may take to get one range of the first blob. */
export const probeDeadlineMs = 20_000;

/** Milliseconds from SIGTERM until the process is gone whatever hangs; the kernel mount is removed within it. */
export const stopDeadlineMs = 2_000;

/** Milliseconds a read waits for absent data before EIO, when the configuration has no `timeout`: one request and its retries over all hosts. */
export const readDeadlineDefaultMs = 30_000;

/** Milliseconds a request of the kernel may be in service before a line in the log names it. */
export const inflightWarnMs = 20_000;

/** Milliseconds between two looks at requests in service. */
export const inflightCheckMs = 5_000;

/** Errors kept for `GET /api/v1/daemon/events`; the oldest go first. Source: spec/nydusd.md 17.6. */
export const eventsMax = 500;
export const eventBytesMax = 51_200;

/** Milliseconds for talking to the supervisor. */
export const supervisorDeadlineMs = 5_000;

/** Bytes of a saved state. 255 mounts with a configuration of 64 KiB each fit. Beyond it: TAKEOVER_STATE. */
export const stateBytesMax = 64 * 1024 * 1024;

/** Compressed log files that are kept. Source: spec/nydusd.md 2.2. */
export const logFilesMax = 10;

/** Chunks given to one prefetch call: enough to merge neighbours, few enough that a umount ends it soon. */
export const prefetchBatchChunks = 256;

/** Bytes of blocks kept in memory by a back end with `request_alignment`. Beyond it the least recently used go. */
export const alignedBytesKept = 32 * 1024 * 1024;

/** Times the prefetch of an image is taken up again after a host was busy or away, and the pauses in milliseconds, doubled each time. */
export const prefetchRetriesMax = 32;
export const prefetchRetryMinMs = 1_000;
export const prefetchRetryMaxMs = 60_000;

/** Milliseconds the event loop may be busy with walking an image before it turns to readers. */
export const walkSliceMs = 5;

assert(probeDeadlineMs < mountDeadlineMs, "a probe ends before its mount does");
