// The package has no types of its own; this is the part that is used here.
declare module "cli-progress" {
  export interface SingleBar {
    update(value: number, payload?: Readonly<Record<string, string>>): void;
    setTotal(total: number): void;
    stop(): void;
  }
  export class MultiBar {
    constructor(options: Readonly<Record<string, unknown>>);
    create(total: number, startValue: number, payload?: Readonly<Record<string, string>>): SingleBar;
    stop(): void;
  }
}
