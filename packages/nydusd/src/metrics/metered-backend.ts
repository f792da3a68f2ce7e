import type { BlobBackend, BlobReadOptions, ByteRange } from "@nydus-ts/chunk-store";
import type { HostHealth } from "@nydus-ts/mirror-config";
import type { BackendMetricsAnswer } from "@nydus-ts/nydus-api";
import { backendLatencyClass, classCount, sizeClass } from "./classes.ts";

type BackendFailure = (blobId: string, range: ByteRange, error: unknown) => void;

const zeros = (): number[] => new Array<number>(classCount).fill(0);

/** Counts what goes through a back end, with the meanings of spec/nydusd.md 17.2, and tells about final failures. */
export class MeteredBackend implements BlobBackend {
  readonly kind: string;
  readonly #inner: BlobBackend;
  readonly #onFailure: BackendFailure;
  readonly #hosts: (() => readonly HostHealth[]) | undefined;
  #count = 0;
  #errors = 0;
  #bytes = 0;
  #latencyMs = 0;
  readonly #latencyBySize = zeros();
  readonly #countBySize = zeros();
  readonly #latencySizes = Array.from({ length: classCount }, zeros);

  /** @param hosts  health of the hosts behind it; absent for a back end without any */
  constructor(inner: BlobBackend, onFailure: BackendFailure, hosts?: () => readonly HostHealth[]) {
    this.kind = inner.kind;
    this.#hosts = hosts;
    this.#inner = inner;
    this.#onFailure = onFailure;
  }

  async read(blobId: string, range: ByteRange, options: BlobReadOptions): Promise<Uint8Array> {
    const begin = performance.now();
    const size = sizeClass(range.length);
    this.#count += 1;
    this.#bytes += range.length;
    this.#countBySize[size] += 1;
    try {
      return await this.#inner.read(blobId, range, options);
    } catch (error) {
      if (!options.signal?.aborted) {
        this.#errors += 1;
        this.#onFailure(blobId, range, error);
      }
      throw error;
    } finally {
      const ms = Math.round(performance.now() - begin);
      this.#latencyMs += ms;
      this.#latencyBySize[size] += ms;
      this.#latencySizes[size][backendLatencyClass(ms)] += 1;
    }
  }

  size(blobId: string, options: BlobReadOptions): Promise<number> {
    return this.#inner.size(blobId, options);
  }

  answer(): BackendMetricsAnswer {
    return {
      backend_type: this.kind,
      read_count: this.#count,
      read_errors: this.#errors,
      read_amount_total: this.#bytes,
      read_cumulative_latency_millis_total: this.#latencyMs,
      read_cumulative_latency_millis_dist: [...this.#latencyBySize],
      read_count_block_size_dist: [...this.#countBySize],
      read_latency_sizes_dist: this.#latencySizes.map((row) => [...row]),
      ...(this.#hosts === undefined ? {} : { hosts: this.#hosts().map(hostAnswer) }),
    };
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#inner[Symbol.asyncDispose]();
  }
}

function hostAnswer(health: HostHealth): NonNullable<BackendMetricsAnswer["hosts"]>[number] {
  const { url, kind, state, successes, failures, bypasses, probes, lastFailure } = health;
  return { url, kind, state, successes, failures, bypasses, probes, ...(lastFailure === undefined ? {} : { last_failure: lastFailure }) };
}
