import { mountInfo } from "@nydus-ts/linux";
import { socketState } from "../api/server.ts";

/**
 * Whether a daemon died and left its mount behind: the mount point is mounted, the API socket file is there, and nobody listens on it.
 * Then a new process waits for `takeover` instead of mounting over it. To be asked before the new process replaces the socket file.
 * Source: spec/nydusd.md 5
 */
export async function hasCrashedPredecessor(mountpoint: string, apiSocket: string): Promise<boolean> {
  if (!mountInfo().some((entry) => entry.mountpoint === mountpoint && entry.type.startsWith("fuse"))) return false;
  return (await socketState(apiSocket)) === "stale";
}
