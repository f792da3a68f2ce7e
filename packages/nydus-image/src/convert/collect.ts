/**
 * Buffers outside the JavaScript heap are freed by garbage collections, and V8 starts one only when about 64 MiB of them have gathered, in
 * every thread. Streams that make a new buffer for every piece then hold several times what is in work. A collection of the young generation
 * after so many bytes takes a millisecond or two and frees nearly all of them.
 */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { bytesPerCollection } from "../limits.ts";

type Collect = (options: { type: "minor"; execution: "sync" }) => void;

let collect: Collect | undefined;
let bytesSince = 0;

/** Called with the size of every piece that went through a stream. */
export function countStreamed(bytes: number): void {
  bytesSince += bytes;
  if (bytesSince < bytesPerCollection) return;
  bytesSince = 0;
  if (collect === undefined) {
    setFlagsFromString("--expose-gc");
    collect = runInNewContext("gc") as Collect;
  }
  collect({ type: "minor", execution: "sync" });
}
