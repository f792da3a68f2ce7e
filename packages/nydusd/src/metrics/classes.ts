/** Upper bounds of the first seven size classes in KiB, exclusive. Source: spec/nydusd.md 17. */
const sizeBoundsKib = [1, 4, 16, 64, 128, 512, 1024];
/** Upper bounds of the first seven latency classes of back ends in milliseconds, inclusive. */
const backendBoundsMs = [1, 20, 50, 100, 500, 1000, 2000];

export const classCount = 8;

export function sizeClass(bytes: number): number {
  const kib = Math.floor(bytes / 1024);
  const index = sizeBoundsKib.findIndex((bound) => kib < bound);
  return index < 0 ? 7 : index;
}

export function backendLatencyClass(ms: number): number {
  const index = backendBoundsMs.findIndex((bound) => ms <= bound);
  return index < 0 ? 7 : index;
}
