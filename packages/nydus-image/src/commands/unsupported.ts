/** Verbs of the original that this version does not do: they say so, and what to do instead, rather than being unknown. */
import type { Command } from "commander";
import { unsupported } from "../errors.ts";

const verbs = {
  compact: "convert the image again with `nydus-image convert`; equal chunks of a layer are stored once",
  chunkdict: "convert without a chunk dictionary",
} as const;

export function addUnsupported(program: Command): void {
  for (const [verb, instead] of Object.entries(verbs)) {
    program
      .command(verb)
      .description("not supported by this version")
      .helpOption(false)
      .argument("[ARGS...]")
      .allowUnknownOption()
      .action(() => {
        throw unsupported(`nydus-image ${verb}`, instead);
      });
  }
}
