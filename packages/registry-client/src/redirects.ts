import { REDIRECT_EXPIRY_MARGIN_MS, REDIRECT_TTL_DEFAULT_MS, REDIRECTS_CACHED_MAX } from "./limits.ts";

/** Where blobs were redirected to, until the target's own expiry. */
export class RedirectCache {
  readonly #now: () => number;
  readonly #targets = new Map<string, { url: URL; untilMs: number }>();

  /** @param now  wall clock in milliseconds: expiry times are dates */
  constructor(now: () => number = Date.now) {
    this.#now = now;
  }

  get(key: string): URL | undefined {
    const found = this.#targets.get(key);
    if (found === undefined) return undefined;
    if (this.#now() < found.untilMs) return found.url;
    this.#targets.delete(key);
    return undefined;
  }

  set(key: string, url: URL): void {
    const expiryMs = expiryOf(url);
    const untilMs = expiryMs === undefined ? this.#now() + REDIRECT_TTL_DEFAULT_MS : expiryMs - REDIRECT_EXPIRY_MARGIN_MS;
    if (untilMs <= this.#now()) return;
    const oldest = this.#targets.keys().next();
    if (this.#targets.size >= REDIRECTS_CACHED_MAX && !oldest.done) this.#targets.delete(oldest.value);
    this.#targets.set(key, { url, untilMs });
  }

  delete(key: string): void {
    this.#targets.delete(key);
  }
}

/**
 * When a pre-signed URL stops working, as milliseconds of the wall clock; undefined if it does not say.
 * S3 and GCS v4 (`X-Amz-Date` + `X-Amz-Expires`, `X-Goog-…`), CloudFront and GCS v2 (`Expires`), Azure (`se`).
 */
export function expiryOf(url: URL): number | undefined {
  const query = new Map([...url.searchParams].map(([name, value]) => [name.toLowerCase(), value]));
  for (const vendor of ["x-amz", "x-goog"]) {
    const [date, expires] = [query.get(`${vendor}-date`), query.get(`${vendor}-expires`)];
    const parts = /^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$/.exec(date ?? "");
    if (parts !== null && /^\d+$/.test(expires ?? "")) {
      const [, year, month, day, hour, minute, second] = parts;
      return Date.UTC(Number(year), Number(month) - 1, Number(day), Number(hour), Number(minute), Number(second)) + Number(expires) * 1000;
    }
  }
  const expires = query.get("expires");
  if (expires !== undefined && /^\d+$/.test(expires)) return Number(expires) * 1000;
  const se = Date.parse(query.get("se") ?? "");
  return Number.isNaN(se) ? undefined : se;
}
