// Wall clock in microseconds. Date.now() alone has a millisecond's grain: a snapshot would seem older than the request that made it.
let correctionMs = 0;

/** Microseconds since 1970, never behind Date.now() and less than one millisecond ahead of it. */
export function nowUs(): number {
  let wallMs = performance.timeOrigin + performance.now() + correctionMs;
  const coarseMs = Date.now();
  if (wallMs < coarseMs || wallMs >= coarseMs + 1) {
    // The clock was set, or drifted: align once with the next tick of the coarse clock.
    let tickMs = coarseMs;
    while (tickMs === coarseMs) tickMs = Date.now();
    correctionMs = tickMs - (performance.timeOrigin + performance.now());
    wallMs = tickMs;
  }
  return Math.floor(wallMs * 1000);
}
