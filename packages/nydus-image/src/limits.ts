/** Layers that are read, built and written at the same time. Each holds up to about 30 MiB of data on its way; more layers wait. */
export const layersInFlightMax = 4;

/** Manifests of an index that are converted. A larger index is refused. */
export const manifestsMax = 64;

/** Layers of one image. Docker's limit is 127; an image with more is refused. */
export const layersMax = 256;

/** Bytes of an image config. Larger ones are refused. */
export const configBytesMax = 8 * 1024 * 1024;

/** One read of a local blob. A disk that takes longer, in ms, has failed. */
export const blobReadDeadlineMs = 60_000;
