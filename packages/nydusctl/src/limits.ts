/** Milliseconds a call of the daemon may take; the original waits for ever. `--timeout` changes it. */
export const callTimeoutMs = 30_000;

/** Milliseconds a mount may take. */
export const mountTimeoutMs = 90_000;

/** Milliseconds `doctor` waits for one socket or one host. */
export const probeTimeoutMs = 5_000;

/** Bytes of a configuration file. */
export const configBytesMax = 1024 * 1024;

/** Share of free space below which `doctor` warns. */
export const freeShareMin = 0.1;

/** Open files the daemon wants; below it many images may not fit. */
export const openFilesMin = 65_536;
