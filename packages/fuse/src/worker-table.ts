/** The request a worker handles at this moment. */
export interface CurrentRequest {
  /** Node id; above 2^53 its low bits are rounded. */
  readonly node: number;
  readonly opcode: number;
  readonly unique: number;
  /** Seconds since 1970. */
  readonly sinceSeconds: number;
}

const wordsPerWorker = 16; // a cache line each
const word = { call: 0, active: 1, nodeLo: 2, nodeHi: 3, opcode: 4, uniqueLo: 5, uniqueHi: 6, since: 7 } as const;

/** Shared memory between the threads of a server: what each worker does, and a number the main thread raises to call it. */
export class WorkerTable {
  readonly buffer: SharedArrayBuffer;
  readonly #words: Int32Array;

  constructor(source: number | SharedArrayBuffer) {
    this.buffer = typeof source === "number" ? new SharedArrayBuffer(source * wordsPerWorker * 4) : source;
    this.#words = new Int32Array(this.buffer);
  }

  /** Asks worker `index` to look at its messages; the caller also wakes its poll(2). */
  call(index: number): void {
    Atomics.add(this.#words, index * wordsPerWorker + word.call, 1);
  }

  /** How often worker `index` has been called. */
  calls(index: number): number {
    return Atomics.load(this.#words, index * wordsPerWorker + word.call);
  }

  begin(index: number, nodeLo: number, nodeHi: number, opcode: number, uniqueLo: number, uniqueHi: number): void {
    const words = this.#words;
    const at = index * wordsPerWorker;
    words[at + word.nodeLo] = nodeLo;
    words[at + word.nodeHi] = nodeHi;
    words[at + word.opcode] = opcode;
    words[at + word.uniqueLo] = uniqueLo;
    words[at + word.uniqueHi] = uniqueHi;
    words[at + word.since] = Date.now() / 1000;
    words[at + word.active] = 1;
  }

  end(index: number): void {
    this.#words[index * wordsPerWorker + word.active] = 0;
  }

  /** The requests in the hands of workers; a snapshot without a lock, good for people to look at. */
  current(): CurrentRequest[] {
    const words = this.#words;
    const requests: CurrentRequest[] = [];
    for (let at = 0; at < words.length; at += wordsPerWorker) {
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
