/** Bytes at which a size class begins, in KiB; latency bounds in milliseconds, inclusive. Source: spec/nydusd.md, section 17 */
const SIZE_CLASS_KIB = [1, 4, 16, 64, 128, 512, 1024];
const LATENCY_CLASS_MS = [1, 20, 50, 100, 500, 1000, 2000];

/** Figures of nydusd's back end metrics, under our names; arrays have 8 classes. */
export interface ReadMetricsSnapshot {
  readonly readCount: number;
  readonly readErrors: number;
  readonly readBytes: number;
  readonly readLatencyMs: number;
  readonly latencyMsBySize: readonly number[];
  readonly countBySize: readonly number[];
  /** Outer index: size class; inner: latency class. */
  readonly countBySizeAndLatency: readonly (readonly number[])[];
}

/** Counts reads as `GET /api/v1/metrics/backend` shows them. A read that was retried counts once. */
export class ReadMetrics {
  #count = 0;
  #errors = 0;
  #bytes = 0;
  #latencyMs = 0;
  readonly #latencyMsBySize = new Array<number>(8).fill(0);
  readonly #countBySize = new Array<number>(8).fill(0);
  readonly #countBySizeAndLatency = Array.from({ length: 8 }, () => new Array<number>(8).fill(0));

  add(bytes: number, latencyMs: number, good: boolean): void {
    const size = classOf(SIZE_CLASS_KIB, (bound) => Math.floor(bytes / 1024) < bound);
    const latency = classOf(LATENCY_CLASS_MS, (bound) => latencyMs <= bound);
    const ms = Math.round(latencyMs);
    this.#count++;
    if (!good) this.#errors++;
    this.#bytes += bytes;
    this.#latencyMs += ms;
    this.#latencyMsBySize[size]! += ms;
    this.#countBySize[size]!++;
    this.#countBySizeAndLatency[size]![latency]!++;
  }

  snapshot(): ReadMetricsSnapshot {
    return {
      readCount: this.#count,
      readErrors: this.#errors,
      readBytes: this.#bytes,
      readLatencyMs: this.#latencyMs,
      latencyMsBySize: [...this.#latencyMsBySize],
      countBySize: [...this.#countBySize],
      countBySizeAndLatency: this.#countBySizeAndLatency.map((row) => [...row]),
    };
  }
}

function classOf(bounds: readonly number[], below: (bound: number) => boolean): number {
  const found = bounds.findIndex(below);
  return found < 0 ? bounds.length : found;
}
