export type MirrorConfigErrorCode = "MIRROR_CONFIG_INVALID" | "MIRROR_CONFIG_UNREADABLE";

/** One finding. `line` counts from 1; absent where the format has no lines. */
export interface Problem {
  readonly file: string;
  readonly line?: number;
  readonly key: string;
  readonly message: string;
}

/** `FILE:LINE: KEY: what was expected, what was found` */
export function formatProblem(problem: Problem): string {
  const place = problem.line === undefined ? problem.file : `${problem.file}:${problem.line}`;
  return problem.key === "" ? `${place}: ${problem.message}` : `${place}: ${problem.key}: ${problem.message}`;
}

/** A mirror configuration cannot be used. `problems` lists everything that is wrong, not only the first. */
export class MirrorConfigError extends Error {
  override readonly name = "MirrorConfigError";
  readonly code: MirrorConfigErrorCode;
  readonly problems: readonly Problem[];

  constructor(code: MirrorConfigErrorCode, problems: readonly Problem[], options?: ErrorOptions) {
    super(problems.map(formatProblem).join("\n"), options);
    this.code = code;
    this.problems = problems;
  }
}
