/** Bounds of waiting in tests: generous, since machines of CI are slow; beyond them a test fails with what it waited for. */
export const limits = {
  /** One command to its end (`run`). */
  runDeadlineMs: 120_000,
  /** A condition to come true (`until`). */
  untilDeadlineMs: 30_000,
  /** From SIGTERM to SIGKILL. */
  stopGraceMs: 10_000,
  /** One call to containerd's CRI; pulls have their own. */
  criDeadlineMs: 60_000,
  pullDeadlineMs: 180_000,
} as const;
