/** Milliseconds a call may take when its caller names no limit. A mount opens files and, with `probe`, asks a registry once. Beyond it: API_TIMEOUT. */
export const callTimeoutDefaultMs = 10_000;

/** Bytes of one answer. `metrics/files` of an image with 500,000 inodes is the largest known. Beyond it: API_PROTOCOL, and the connection is closed. */
export const answerBytesMax = 256 * 1024 * 1024;

/** Bytes of one request body that nydusd reads. A mount body carries a whole configuration; the original stopped at 50 KiB. Beyond it: 413. */
export const requestBytesMax = 8 * 1024 * 1024;
