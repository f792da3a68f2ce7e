import { closeSync, mkdirSync, rmSync } from "node:fs";
import { dirname } from "node:path";
import { recvWithFds, sendWithFds, unixListen } from "@nydus-ts/linux";
import { messageOf, SnapshotterError } from "../errors.ts";
import { supervisorDeadlineMs, supervisorStateBytesMax } from "../limits.ts";

/**
 * Holds a daemon's state and a duplicate of its `/dev/fuse` descriptor across the daemon's death; while it is held the kernel mount stays.
 * The state is the daemon's own business, here it is only bytes. One direction at a time; every step ends within its deadline.
 * Source: spec/nydusd.md 8.1, spec/snapshotter.md 9.5
 */
export class Supervisor {
  readonly path: string;
  #held: { readonly data: Buffer; readonly fd: number } | undefined;
  #last: Promise<unknown> = Promise.resolve();

  constructor(path: string) {
    this.path = path;
  }

  /** Whether a successor could take over now. */
  get holds(): boolean {
    return this.#held !== undefined;
  }

  /**
   * Takes state and descriptor from the daemon, in place of what was held.
   * @param ask  the request that makes the daemon connect
   * @throws SnapshotterError SUPERVISOR; what was held before stays
   */
  collect(ask: () => Promise<void>): Promise<void> {
    return this.#exclusive("collecting the daemon's state", ask, async (connection, signal) => {
      const { data, fds } = await recvWithFds(connection, { bytesMax: supervisorStateBytesMax, deadlineMs: supervisorDeadlineMs, signal });
      const [fd, ...others] = fds;
      for (const other of others) closeSync(other);
      if (fd === undefined) throw new Error("the daemon sent no descriptor");
      this.#drop();
      this.#held = { data, fd };
    });
  }

  /** Gives state and descriptor to a successor; they stay held. @throws SnapshotterError SUPERVISOR */
  offer(ask: () => Promise<void>): Promise<void> {
    return this.#exclusive("handing the state to a successor", ask, async (connection, signal) => {
      if (this.#held === undefined) throw new Error("nothing is held");
      const { data, fd } = this.#held;
      await sendWithFds(connection, { data, fds: [fd] }, { deadlineMs: supervisorDeadlineMs, signal });
    });
  }

  /** Lets go of the descriptor: if no daemon holds another, the kernel ends the connection and waiting readers get an error. */
  async drop(): Promise<void> {
    await this.#last.catch(() => undefined);
    this.#drop();
    rmSync(this.path, { force: true });
  }

  #exclusive(what: string, ask: () => Promise<void>, serve: (connection: number, signal: AbortSignal) => Promise<void>): Promise<void> {
    const run = this.#last.catch(() => undefined).then(() => this.#serveOne(ask, serve));
    const named = run.catch((error) => {
      throw new SnapshotterError("SUPERVISOR", `${this.path}: ${what} failed: ${messageOf(error)}`, { cause: error });
    });
    this.#last = named;
    return named;
  }

  async #serveOne(ask: () => Promise<void>, serve: (connection: number, signal: AbortSignal) => Promise<void>): Promise<void> {
    mkdirSync(dirname(this.path), { recursive: true });
    rmSync(this.path, { force: true });
    const stop = new AbortController();
    const served = Promise.withResolvers<void>();
    served.promise.catch(() => undefined);
    let taken = false;
    const listener = await unixListen(this.path, (connection) => {
      if (taken) {
        closeSync(connection);
        return;
      }
      taken = true;
      serve(connection, stop.signal)
        .finally(() => closeSync(connection))
        .then(served.resolve, served.reject);
    });
    const timer = setTimeout(
      () => served.reject(new Error(`the daemon did not connect within ${supervisorDeadlineMs} ms`)),
      supervisorDeadlineMs,
    );
    try {
      await ask();
      await served.promise;
    } catch (error) {
      stop.abort(new Error("given up"));
      throw error;
    } finally {
      clearTimeout(timer);
      await listener[Symbol.asyncDispose]();
    }
  }

  #drop(): void {
    if (this.#held !== undefined) closeSync(this.#held.fd);
    this.#held = undefined;
  }
}
