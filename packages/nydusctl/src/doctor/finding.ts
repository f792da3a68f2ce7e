/** `bad`: something will fail; `warn`: something may, or is worse than it could be; `ok` is worth telling too. */
export type Status = "ok" | "warn" | "bad";

export interface Finding {
  /** Name of the check: `kernel`, `containerd`, … Stable, for scripts. */
  readonly check: string;
  readonly status: Status;
  /** What was found, in one sentence. */
  readonly text: string;
  /** Commands or configuration lines that mend it. */
  readonly fix?: readonly string[];
}

export const ok = (check: string, text: string): Finding => ({ check, status: "ok", text });
export const warn = (check: string, text: string, ...fix: string[]): Finding => ({ check, status: "warn", text, fix });
export const bad = (check: string, text: string, ...fix: string[]): Finding => ({ check, status: "bad", text, fix });
