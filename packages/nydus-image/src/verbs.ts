/** The verbs of `nydus-image`, each loaded when it is asked for: `create` needs a sixth of the program, and reading all of it took 40 MiB and 0.1 s. */
import type { Command } from "commander";
import type { Context } from "./context.ts";

type Add = (program: Command, context: Context) => void;

/** In the order of the help. */
export const verbs = {
  create: async () => (await import("./commands/create.ts")).addCreate,
  convert: async () => (await import("./commands/convert.ts")).addConvert,
  merge: async () => (await import("./commands/merge.ts")).addMerge,
  check: async () => (await import("./commands/check.ts")).addCheck,
  inspect: async () => (await import("./commands/inspect.ts")).addInspect,
  stat: async () => (await import("./commands/stat.ts")).addStat,
  unpack: async () => (await import("./commands/unpack.ts")).addUnpack,
  export: async () => (await import("./commands/export.ts")).addExport,
  optimize: async () => (await import("./commands/optimize.ts")).addOptimize,
  compact: async () => (await import("./commands/compact.ts")).addCompact,
  chunkdict: async () => (await import("./commands/chunkdict.ts")).addChunkdict,
} as const satisfies Record<string, () => Promise<Add>>;

export type Verb = keyof typeof verbs;

/** What adds the verb to the program; all of them without one, for help and for words that are none. */
export async function loadVerbs(verb: Verb | undefined): Promise<Add[]> {
  const loaders = verb === undefined ? Object.values(verbs) : [verbs[verb]];
  return await Promise.all(loaders.map((load) => load()));
}
