import type { Socket } from "node:net";
import { HOSTS_WATCHED_MAX } from "../limits.ts";
import { DemandWatch } from "./demand-watch.ts";
import { Gate } from "./gate.ts";
import { PrefetchPace } from "./prefetch-pace.ts";

export interface HostTrafficOptions {
  readonly requestsPerHostMax?: number | undefined;
  /**
   * Bounds what the system receives of a connection ahead of its reader, in bytes: a prefetch that rests otherwise fills the link until the
   * system's buffer is full. Node has no call for it. Must not throw.
   */
  readonly limitReceived?: ((socket: Socket, bytes: number) => void) | undefined;
}

/**
 * What is under way to each host, and whether anybody waits for it. One for all clients that share a machine's link: a registry counts
 * its callers by address, whatever the number of images, and a reader of one image goes before the prefetch of another.
 */
export class HostTraffic {
  readonly demand = new DemandWatch();
  readonly prefetch = new PrefetchPace(this.demand);
  readonly limitReceived: HostTrafficOptions["limitReceived"];
  readonly #gates = new Map<string, Gate>();
  readonly #perHostMax: number | undefined;

  constructor(options: HostTrafficOptions = {}) {
    this.limitReceived = options.limitReceived;
    this.#perHostMax = options.requestsPerHostMax;
  }

  gate(url: URL): Gate {
    let gate = this.#gates.get(url.host);
    if (gate === undefined) {
      // Targets of redirects come and go; what is idle and was not slowed down is as good as new.
      if (this.#gates.size >= HOSTS_WATCHED_MAX) for (const [host, each] of this.#gates) if (each.pristine) this.#gates.delete(host);
      gate = new Gate(this.#perHostMax === undefined ? {} : { max: this.#perHostMax });
      this.#gates.set(url.host, gate);
    }
    return gate;
  }
}
