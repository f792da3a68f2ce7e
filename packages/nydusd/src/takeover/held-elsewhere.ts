import { statfs } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";

/** Milliseconds for the kernel to say that a connection is at its end. It does so at once; on a busy machine the thread that asks is late. */
const askMs = 400;

/**
 * Whether somebody else holds the device of a FUSE mount that this process has just closed: then a request to it waits for a successor.
 * With the last descriptor the kernel ended the connection, and a request fails at once. The request that waits dies with this process.
 */
export async function isHeldElsewhere(mountpoint: string): Promise<boolean> {
  const answered = statfs(mountpoint).then(
    () => true,
    (error: NodeJS.ErrnoException) => error.code !== "ENOTCONN" && error.code !== "ECONNABORTED",
  );
  return Promise.race([answered, sleep(askMs, true, { ref: false })]);
}
