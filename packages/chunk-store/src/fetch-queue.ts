import type { FetchClass } from "./fetch-class.ts";
import { fetchClasses } from "./fetch-class.ts";
import { Flight } from "./flight.ts";
import { aheadWithDemandBytesMax, demandRequestBytesMax, gapBytesMax } from "./limits.ts";
import type { StoredItems } from "./stored-items.ts";

/** Item numbers looked at for neighbours on each side of a request; only items that are absent and wanted count. */
const neighboursMax = 4096;
/** Items in a row that are not wanted and still bridged, if they are small enough. */
const bridgedItemsMax = 64;

/** A range of the stored blob that one request fetches, and the flights whose items lie in it. */
export interface MergedRange {
  readonly offset: number;
  readonly length: number;
  /** In stored order. */
  readonly flights: readonly Flight[];
}

/** The flights of one blob: those that wait by class, in order of arrival, and those that run. One flight an item at most. */
export class FetchQueue {
  readonly #items: StoredItems;
  readonly #prefetchRequestBytesMax: number;
  readonly #flights = new Map<number, Flight>();
  readonly #waiting: Readonly<Record<FetchClass, Map<number, Flight>>> = { demand: new Map(), ahead: new Map(), prefetch: new Map() };

  /** @param prefetchRequestBytesMax  stored bytes of one request that nobody waits for, unless a single item is larger */
  constructor(items: StoredItems, prefetchRequestBytesMax: number) {
    this.#items = items;
    this.#prefetchRequestBytesMax = prefetchRequestBytesMax;
  }

  /** Flights that wait or run. */
  get size(): number {
    return this.#flights.size;
  }

  get(item: number): Flight | undefined {
    return this.#flights.get(item);
  }

  has(kind: FetchClass): boolean {
    return this.#waiting[kind].size > 0;
  }

  /** The item's flight: a new one, or the one there is, made as urgent as `kind` if it still waits. */
  join(item: number, kind: FetchClass): Flight {
    const found = this.#flights.get(item);
    if (found !== undefined) {
      if (found.running && kind === "demand") found.onDemand?.();
      if (!found.running && fetchClasses.indexOf(kind) < fetchClasses.indexOf(found.kind)) {
        this.#waiting[found.kind].delete(item);
        found.kind = kind;
        this.#waiting[kind].set(item, found);
      }
      return found;
    }
    const flight = new Flight(item, this.#items.storedOffset(item), this.#items.storedSize(item), kind);
    this.#flights.set(item, flight);
    this.#waiting[kind].set(item, flight);
    return flight;
  }

  /** Forgets a flight that has settled, or one that waits and is wanted no more. */
  drop(flight: Flight): void {
    if (this.#flights.get(flight.item) !== flight) return;
    this.#flights.delete(flight.item);
    this.#waiting[flight.kind].delete(flight.item);
  }

  /** Puts a running flight back in line: its item has to be fetched once more. */
  requeue(flight: Flight): void {
    flight.running = false;
    flight.onDemand = undefined;
    this.#waiting[flight.kind].set(flight.item, flight);
  }

  all(): Flight[] {
    return [...this.#flights.values()];
  }

  /** Takes the oldest flight of a class out of the line, with neighbours that may share its request. */
  take(kind: FetchClass): MergedRange {
    const line = this.#waiting[kind];
    const [head] = line.values();
    if (head === undefined) throw new TypeError(`nothing of class ${kind} waits`);
    const bytesMax = kind === "demand" ? demandRequestBytesMax : this.#prefetchRequestBytesMax;
    const range = { start: head.offset, end: head.offset + head.length };
    // A second try of one item goes alone: its neighbours are not to share its fate.
    const flights = head.retries > 0 ? [head] : [...this.#grow(head, line, range, -1, bytesMax).reverse(), head];
    if (head.retries === 0) {
      flights.push(...this.#grow(head, line, range, 1, bytesMax));
      if (kind === "demand" && this.#isLittleAhead())
        flights.push(...this.#grow(flights.at(-1) as Flight, this.#waiting.ahead, range, 1, bytesMax));
    }
    for (const flight of flights) {
      this.#waiting[flight.kind].delete(flight.item);
      flight.running = true;
    }
    return { offset: range.start, length: range.end - range.start, flights };
  }

  /** Whether all read-ahead that waits may travel with a reader's request. */
  #isLittleAhead(): boolean {
    let bytes = 0;
    for (const { length } of this.#waiting.ahead.values()) {
      bytes += length;
      if (bytes > aheadWithDemandBytesMax) return false;
    }
    return bytes > 0;
  }

  /** Waiting neighbours of `head` in one direction, nearest first; `range` grows with them. */
  #grow(head: Flight, line: Map<number, Flight>, range: { start: number; end: number }, step: 1 | -1, bytesMax: number): Flight[] {
    const taken: Flight[] = [];
    let bridged = 0;
    for (let item = head.item + step; Math.abs(item - head.item) < neighboursMax && item >= 0 && item < this.#items.end; item += step) {
      const offset = this.#items.storedOffset(item);
      if (offset < 0) continue;
      const end = offset + this.#items.storedSize(item);
      const gap = step > 0 ? offset - range.end : range.start - end;
      if (gap > gapBytesMax || Math.max(range.end, end) - Math.min(range.start, offset) > bytesMax) break;
      const flight = line.get(item);
      if (flight === undefined || flight.retries > 0) {
        if (++bridged > bridgedItemsMax) break;
        continue;
      }
      bridged = 0;
      range.start = Math.min(range.start, offset);
      range.end = Math.max(range.end, end);
      taken.push(flight);
    }
    return taken;
  }
}
