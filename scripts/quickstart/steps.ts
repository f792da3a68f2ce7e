/** In a log file a note every few seconds is enough. */
const noteEveryMs = 3_000;

/** What a person sees: one line a step, with the time it takes while it runs when the output is a terminal. */
export class Steps {
  readonly #total: number;
  #number = 0;

  constructor(total: number) {
    this.#total = total;
  }

  /**
   * Runs one step. `note` shows what is going on; the last note stays on the line when the step has ended.
   * `ownOutput`: the step writes its own progress below the line.
   */
  async run<T>(
    title: string,
    action: (note: (text: string) => void) => Promise<T>,
    options: { readonly ownOutput?: boolean } = {},
  ): Promise<T> {
    const head = `[${++this.#number}/${this.#total}] ${title}`;
    const begin = performance.now();
    const seconds = (): string => `${((performance.now() - begin) / 1000).toFixed(1)} s`;
    let note = "";
    const live = process.stderr.isTTY && options.ownOutput !== true;
    const draw = (): boolean => process.stderr.write(`\r\x1b[K${clip(`${head} ${note === "" ? "" : `(${note}) `}… ${seconds()}`)}`);
    const timer = live ? setInterval(draw, 200) : undefined;
    if (!live) process.stderr.write(`${head} …\n`);
    let shown = begin;
    try {
      const result = await action((text) => {
        note = text;
        if (live) draw();
        else if (performance.now() - shown > noteEveryMs) {
          process.stderr.write(`      ${text}\n`);
          shown = performance.now();
        }
      });
      process.stderr.write(
        live ? `\r\x1b[K${head}: ${note === "" ? "done" : note}, ${seconds()}\n` : `      ${note === "" ? "done" : note}, ${seconds()}\n`,
      );
      return result;
    } catch (error) {
      process.stderr.write(live ? `\r\x1b[K${head}: failed after ${seconds()}\n` : `      failed after ${seconds()}\n`);
      throw error;
    } finally {
      clearInterval(timer);
    }
  }
}

function clip(line: string): string {
  const columns = process.stderr.columns ?? 80;
  return line.length < columns ? line : `${line.slice(0, columns - 2)}…`;
}
