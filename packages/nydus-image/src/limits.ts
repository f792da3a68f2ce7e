/**
 * Layers that are read and built at the same time: while one waits for the network, the other keeps two cores busy. Each holds up to about
 * 30 MiB of data on its way; four were no faster and cost 25 MiB more at the peak. More layers wait.
 */
export const layersInBuildMax = 2;

/** Layers that are built or written at the same time: a blob goes to its store while the next layers are built. More layers wait. */
export const layersInFlightMax = 4;

/** Manifests of an index that are converted. A larger index is refused. */
export const manifestsMax = 64;

/** Layers of one image. Docker's limit is 127; an image with more is refused. */
export const layersMax = 256;

/** Bytes of an image config. Larger ones are refused. */
export const configBytesMax = 8 * 1024 * 1024;

/** One read of a local blob. A disk that takes longer, in ms, has failed. */
export const blobReadDeadlineMs = 60_000;

/** Bytes of a bootstrap layer, packed and unpacked, that is read into memory. Larger ones are refused. */
export const bootstrapLayerBytesMax = 1024 * 1024 * 1024;

/** Blobs that `copy` moves at the same time; each is a stream with a few pieces in memory. Others wait. */
export const blobsInCopyMax = 5;

/** Bytes of a piece of `copy --push-chunk-size`; each blob in copy keeps one in memory. A larger size is refused. */
export const pushChunkBytesMax = 256 * 1024 * 1024;

/** Files whose contents `check` compares at the same time; each holds a few chunks. Others wait. */
export const filesInCheckMax = 8;

/** Differences that `check` lists. More are counted. */
export const differencesListedMax = 50;

/** Until a daemon that `mount` started serves; then it is given up. Milliseconds. */
export const nydusdStartDeadlineMs = 30_000;

/** Until it has ended after SIGTERM; then it is killed. Milliseconds. */
export const nydusdStopDeadlineMs = 10_000;

/** One call of containerd's client; then containerd is taken for stuck. Milliseconds. */
export const ctrDeadlineMs = 60_000;

/** Attempts to resume a container after a commit, one a second at most: containerd may be away for as long as its upgrade takes. */
export const resumeAttemptsMax = 1800;

/** Writing back what a container wrote, before it is read. Milliseconds. */
export const syncDeadlineMs = 300_000;

/** Time for each exchange of an upload to object storage, and for its silence while a part is sent. */
export const objectStepDeadlineMs = 60_000;
