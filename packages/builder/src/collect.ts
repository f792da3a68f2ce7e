/**
 * Buffers outside the JavaScript heap are freed by garbage collections, and V8 starts one only when about 64 MiB of them have gathered. A
 * decoder makes a new buffer for every piece, so who reads from one says what was dropped: a collection of young objects takes a millisecond.
 */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { youngGarbageBytesMax } from "./limits.ts";

type Collect = (options: { type: "minor"; execution: "sync" }) => void;

let collect: Collect | undefined;
let dropped = 0;

/** Called with the size of every piece of a stream that was used and dropped. */
export function countDropped(bytes: number): void {
  dropped += bytes;
  if (dropped < youngGarbageBytesMax) return;
  dropped = 0;
  if (collect === undefined) {
    setFlagsFromString("--expose-gc");
    collect = runInNewContext("gc") as Collect;
  }
  collect({ type: "minor", execution: "sync" });
}
