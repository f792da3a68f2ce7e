import { InvalidArgumentError, Option } from "commander";

const values: ReadonlyMap<string, boolean> = new Map([
  ...["1", "t", "T", "TRUE", "true", "True"].map((text) => [text, true] as const),
  ...["0", "f", "F", "FALSE", "false", "False"].map((text) => [text, false] as const),
]);

/** A switch as nydusify has it: `--name`, `--name=false`, or a word in the environment. Source: spec/nydusify.md, section 1.1 */
export function switchOption(name: string, description: string, environment?: string): Option {
  const option = new Option(`${name} [true|false]`, description).preset("true").argParser((text) => {
    const value = values.get(text);
    if (value === undefined) throw new InvalidArgumentError("It is true or false.");
    return value;
  });
  return environment === undefined ? option : option.env(environment);
}
