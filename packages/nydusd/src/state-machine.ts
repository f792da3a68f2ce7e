import type { DaemonState } from "@nydus-ts/nydus-api";
import { NydusdError } from "./errors.ts";

export type DaemonEvent = "mount" | "takeover" | "start" | "stop" | "exit";
type Internal = "init" | "ready" | "running" | "die";

/** Source: spec/nydusd.md 5. Unlike the original's, this machine moves only when the action succeeded, so a failed take-over can be tried again. */
const transitions: Record<Internal, Partial<Record<DaemonEvent, Internal>>> = {
  init: { mount: "ready", takeover: "ready", stop: "die" },
  ready: { start: "running", stop: "die", exit: "die" },
  running: { stop: "ready" },
  die: {},
};

/** A fresh daemon is reported INIT until it runs: the event `mount` does not change the report. */
const reports: Record<Internal, DaemonState> = { init: "INIT", ready: "READY", running: "RUNNING", die: "STOPPED" };

/** The life of the daemon. Events are handled one after the other in the order of their calls. */
export class StateMachine {
  #state: Internal = "init";
  #reported: DaemonState = "INIT";
  #queue: Promise<unknown> = Promise.resolve();

  get reported(): DaemonState {
    return this.#reported;
  }

  /**
   * Runs `action` if the event is allowed in the state of that moment, then moves.
   * @throws NydusdError STATE_REFUSED; whatever `action` throws
   */
  handle(event: DaemonEvent, action: () => Promise<void> | void): Promise<void> {
    const result = this.#queue.then(async () => {
      const next = transitions[this.#state][event];
      if (next === undefined) {
        const allowed = Object.keys(transitions[this.#state]).join(", ") || "nothing";
        throw new NydusdError("STATE_REFUSED", `the daemon is ${this.#reported} and can't ${event} now; possible: ${allowed}`);
      }
      await action();
      this.#state = next;
      if (event !== "mount") this.#reported = reports[next];
    });
    this.#queue = result.catch(() => undefined);
    return result;
  }
}
