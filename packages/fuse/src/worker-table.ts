/** The request a worker handles at this moment. */
export interface CurrentRequest {
  /** Node id; above 2^53 its low bits are rounded. */
  readonly node: number;
  readonly opcode: number;
  readonly unique: number;
  /** Seconds since 1970. */
  readonly sinceSeconds: number;
}

const wordsPerWorker = 16; // a cache line each; one more stands before them, for what all workers share
const word = { call: 0, active: 1, nodeLo: 2, nodeHi: 3, opcode: 4, uniqueLo: 5, uniqueHi: 6, since: 7 } as const;
const shared = { bell: 0, helpUntil: 1 } as const;
/** How long stand-ins serve after a worker was held up, in milliseconds: a disk that was slow once is slow again. */
const helpMs = 100;
/** How often a resting stand-in looks for workers that are held up still, since when in seconds, and how long it then serves. */
const lookMs = 1000;
const stuckSeconds = 2;
const stuckHelpMs = 10_000;

/**
 * Shared memory between the threads of a server: what each worker does, a number the main thread raises to call it, and a bell that brings
 * stand-ins (workers that serve only while others are held up).
 */
export class WorkerTable {
  readonly buffer: SharedArrayBuffer;
  readonly #words: Int32Array;

  constructor(source: number | SharedArrayBuffer) {
    this.buffer = typeof source === "number" ? new SharedArrayBuffer((source + 1) * wordsPerWorker * 4) : source;
    this.#words = new Int32Array(this.buffer);
  }

  /** Asks worker `index` to look at its messages; the caller also wakes its poll(2). */
  call(index: number): void {
    Atomics.add(this.#words, placeOf(index) + word.call, 1);
    this.#ring();
  }

  /** How often worker `index` has been called. */
  calls(index: number): number {
    return Atomics.load(this.#words, placeOf(index) + word.call);
  }

  /** A worker was held up, by a slow disk most likely: stand-ins serve beside it for a while. */
  askForHelp(): void {
    this.#help(helpMs);
  }

  #help(forMs: number): void {
    const now = nowMs();
    if (((Atomics.load(this.#words, shared.helpUntil) - now) | 0) > forMs / 2) return;
    Atomics.store(this.#words, shared.helpUntil, (now + forMs) | 0);
    this.#ring();
  }

  /** Whether stand-ins are to serve now. */
  get helpWanted(): boolean {
    const remaining = (Atomics.load(this.#words, shared.helpUntil) - nowMs()) | 0;
    return remaining > 0 && remaining <= stuckHelpMs; // a clock that was set back asks for nobody
  }

  /** Blocks a stand-in that has seen `calls` calls until help is wanted, it is called again, or somebody hangs and can not ask. */
  rest(index: number, calls: number): void {
    for (;;) {
      const bell = Atomics.load(this.#words, shared.bell);
      if (this.helpWanted || this.calls(index) !== calls) return;
      if (Atomics.wait(this.#words, shared.bell, bell, lookMs) === "timed-out" && this.#isStuck()) this.#help(stuckHelpMs);
    }
  }

  #isStuck(): boolean {
    const now = Date.now() / 1000;
    return this.current().some(({ sinceSeconds }) => now - sinceSeconds > stuckSeconds);
  }

  #ring(): void {
    Atomics.add(this.#words, shared.bell, 1);
    Atomics.notify(this.#words, shared.bell);
  }

  begin(index: number, nodeLo: number, nodeHi: number, opcode: number, uniqueLo: number, uniqueHi: number): void {
    const words = this.#words;
    const at = placeOf(index);
    words[at + word.nodeLo] = nodeLo;
    words[at + word.nodeHi] = nodeHi;
    words[at + word.opcode] = opcode;
    words[at + word.uniqueLo] = uniqueLo;
    words[at + word.uniqueHi] = uniqueHi;
    words[at + word.since] = Date.now() / 1000;
    words[at + word.active] = 1;
  }

  end(index: number): void {
    this.#words[placeOf(index) + word.active] = 0;
  }

  /** The requests in the hands of workers; a snapshot without a lock, good for people to look at. */
  current(): CurrentRequest[] {
    const words = this.#words;
    const requests: CurrentRequest[] = [];
    for (let at = placeOf(0); at < words.length; at += wordsPerWorker) {
      if (words[at + word.active] === 0) continue;
      const u64 = (low: number, high: number): number =>
        ((words[at + low] as number) >>> 0) + ((words[at + high] as number) >>> 0) * 4294967296;
      requests.push({
        node: u64(word.nodeLo, word.nodeHi),
        opcode: words[at + word.opcode] as number,
        unique: u64(word.uniqueLo, word.uniqueHi),
        sinceSeconds: (words[at + word.since] as number) >>> 0,
      });
    }
    return requests;
  }
}

const placeOf = (index: number): number => (index + 1) * wordsPerWorker;
/** Milliseconds of the clock all threads share, modulo 2^32. */
const nowMs = (): number => Date.now() | 0;
