import { closeSync } from "node:fs";
import { recvWithFds, sendWithFds, unixConnect } from "@nydus-ts/linux";
import { describeError, NydusdError } from "../errors.ts";
import { stateBytesMax, supervisorDeadlineMs } from "../limits.ts";

/**
 * Sends state and device to the supervisor; it keeps both until a successor asks.
 * @throws NydusdError SUPERVISOR
 * Source: spec/nydusd.md 8.1
 */
export async function saveToSupervisor(path: string, state: Uint8Array, device: number): Promise<void> {
  await withConnection(path, (fd) => sendWithFds(fd, { data: state, fds: [device] }, { deadlineMs: supervisorDeadlineMs }));
}

/**
 * Fetches what a predecessor left. The caller owns the descriptor.
 * @throws NydusdError SUPERVISOR (not reachable), TAKEOVER_STATE (no descriptor came)
 */
export async function fetchFromSupervisor(path: string): Promise<{ state: Uint8Array; device: number }> {
  const { data, fds } = await withConnection(path, (fd) =>
    recvWithFds(fd, { bytesMax: stateBytesMax, deadlineMs: supervisorDeadlineMs, untilEnd: true }),
  );
  const [device, ...others] = fds;
  for (const fd of others) closeSync(fd);
  if (device === undefined)
    throw new NydusdError("TAKEOVER_STATE", `the supervisor at ${path} sent no descriptor; it has none saved for this daemon`);
  return { state: data, device };
}

async function withConnection<T>(path: string, run: (fd: number) => Promise<T>): Promise<T> {
  try {
    const fd = await unixConnect(path, { deadlineMs: supervisorDeadlineMs });
    try {
      return await run(fd);
    } finally {
      closeSync(fd);
    }
  } catch (cause) {
    if (cause instanceof NydusdError) throw cause;
    const hint = "the supervisor has to listen there before the call";
    throw new NydusdError("SUPERVISOR", `supervisor ${path}: ${describeError(cause)}; ${hint}`, { cause });
  }
}
