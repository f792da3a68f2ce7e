/**
 * Modules that are loaded when they are first needed: every thread that packs pays for what it loads, and of these it mostly needs none or
 * one (koffi 5 ms, node:crypto 7, node:zlib 2).
 */
import { createRequire } from "node:module";
import type koffi from "koffi";

const load = createRequire(import.meta.url);

export const onDemand = {
  get koffi(): typeof koffi {
    return load("koffi") as typeof koffi;
  },
  get crypto(): typeof import("node:crypto") {
    return process.getBuiltinModule("node:crypto");
  },
  get zlib(): typeof import("node:zlib") {
    return process.getBuiltinModule("node:zlib");
  },
  /** Path of a file of a package. */
  resolve(file: string): string {
    return load.resolve(file);
  },
};
