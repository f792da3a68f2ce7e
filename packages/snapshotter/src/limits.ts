import assert from "node:assert/strict";

/** Bytes of `root`: `ROOT/socket/<20 characters>/api12.sock` must fit the 108 bytes of `sun_path`. Beyond it the start is refused. */
export const rootBytesMax = 70;

/** Infos in one message of a List stream (what containerd's own service sends). */
export const listInfosPerMessage = 100;

/** Bytes of a gRPC request; containerd's client side allows 16 MiB. Beyond it the call is ResourceExhausted. */
export const requestBytesMax = 16 * 1024 * 1024;

/** Wait for a bootstrap that containerd has unpacked: it is complete before Commit, so this only bridges slow disks. */
export const bootstrapDeadlineMs = 500;

/** From spawn to a daemon that answers RUNNING. Beyond it the daemon is killed and the call fails with the tail of its log. */
export const daemonStartDeadlineMs = 20_000;

/** One look at a starting daemon. Short, because the wait is part of every cold start. */
export const daemonPollMs = 15;

/** A request to a daemon that does not touch the network. */
export const daemonRequestDeadlineMs = 10_000;

/** Mount with probe: the daemon fetches one small range, with retries over all hosts, before it answers. */
export const mountDeadlineMs = 60_000;

/** The look at an image's data while it is pulled. Beyond it the pull goes on: a slow registry is no broken one, and the first mount looks again. */
export const probeDeadlineMs = 5_000;

/** A look that found the data holds for the other layers of its pull for so long. A failure is not kept. */
export const probeKeptMs = 30_000;

/** A look that fetched data spares the image's first mount a look of its own, when the container comes right behind the pull. */
export const probeFreshMs = 5_000;

/** Attempts at a first mount whose daemon died meanwhile. */
export const mountAttemptsMax = 5;

/** SIGTERM to gone; then SIGKILL. */
export const daemonStopDeadlineMs = 5_000;

/** Collecting or offering a daemon's state over the supervisor socket. */
export const supervisorDeadlineMs = 10_000;

/** A daemon's state: 64 MiB is several thousand mounts. Beyond it the collection fails, the daemon goes on without fail-over. */
export const supervisorStateBytesMax = 64 * 1024 * 1024;

/** How often a daemon that is not our child is checked by pid; our own children report their end themselves. */
export const livenessPollMs = 500;

/** Pauses between attempts to bring a daemon back; the last one repeats. Reset after `recoverStableMs` of running. */
export const recoverPausesMs = [0, 100, 400, 2_000, 8_000, 30_000] as const;
export const recoverStableMs = 60_000;

/** A daemon started ahead of need (during a pull) without an image mounted stays this long. */
export const idleDaemonMs = 60_000;

/** Instances mounted at once after a start; more would only queue in the daemon. */
export const restoresInFlightMax = 8;

/** Layers of one image. containerd's and Docker's own limit is 127; the walk up a parent chain stops with an error beyond it. */
export const chainLengthMax = 1_000;

/** Asking containerd for an image that came without labels. */
export const containerdDeadlineMs = 10_000;

/** Body of a call to the system controller: prefetch lists. Beyond it the call is refused. */
export const systemBodyBytesMax = 4 * 1024 * 1024;

/** One question to a daemon during a scrape; a daemon that is slower is left out of it. */
export const metricsDeadlineMs = 2_000;

/** Content read from containerd: manifests and configs. */
export const manifestBytesMax = 8 * 1024 * 1024;

/** Manifests remembered, each some KiB: more images than a node has. Beyond it the one not used for longest is read again. */
export const lookedUpMax = 512;

/** Directory entries looked at between two turns of the event loop while usage is measured. */
export const usageEntriesPerTurn = 256;

/** One page less 512 bytes: above this containerd shortens overlay options by changing into the common directory. */
export const overlayOptionBytesMax = 4096;

assert(daemonPollMs < daemonStartDeadlineMs && daemonStopDeadlineMs < daemonStartDeadlineMs);
assert(listInfosPerMessage > 0 && restoresInFlightMax > 0);
