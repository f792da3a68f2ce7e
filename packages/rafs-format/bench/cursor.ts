// How long does the metadata side of a request take? One directory of 3,000 files, everything in memory.
//
//   bin/node packages/rafs-format/bench/cursor.ts [--small] [--json]
import { cpus, release } from "node:os";
import { modeTypes, RafsV6Cursor } from "@nydus-ts/rafs-format";
import { numberTree, TreeNode, writeBootstrap } from "@nydus-ts/rafs-format/writer";

const small = process.argv.includes("--small");
const rounds = small ? 1 : 200;
const files = 3000;

const names = Array.from({ length: files }, (_, index) => Buffer.from(`file-${String(index).padStart(5, "0")}.txt`));
const cursor = new RafsV6Cursor(wideImage());
const nids = names.map((name) => cursor.find(cursor.rootNid, name, 0, name.length));

const results = {
  "look up a name among 3,000, ns": measure(() => {
    for (const name of names) cursor.find(cursor.rootNid, name, 0, name.length);
    return files;
  }),
  "decode an inode, ns": measure(() => {
    for (const nid of nids) cursor.load(nid);
    return files;
  }),
  "list an entry, ns": measure(() => {
    let entries = 0;
    cursor.load(cursor.rootNid);
    for (let block = 0; block < cursor.blockCount; block++) {
      cursor.openBlock(block);
      for (let entry = 0; entry < cursor.entryCount; entry++) cursor.entry(entry);
      entries += cursor.entryCount;
    }
    return entries;
  }),
};
const machine = { cpu: cpus()[0]?.model ?? "unknown", cores: cpus().length, kernel: release(), node: process.version };
if (process.argv.includes("--json")) console.log(JSON.stringify({ machine, results }));
else {
  console.log(`${machine.cpu}, ${machine.cores} cores, kernel ${machine.kernel}, Node ${machine.node}`);
  for (const [question, ns] of Object.entries(results)) console.log(`${question.padEnd(40)} ${ns}`);
}

/** Nanoseconds a step, the best of five so that a busy machine disturbs less. */
function measure(round: () => number): number {
  let best = Number.POSITIVE_INFINITY;
  for (let attempt = 0; attempt < 5; attempt++) {
    const began = performance.now();
    let steps = 0;
    for (let count = 0; count < rounds; count++) steps += round();
    best = Math.min(best, ((performance.now() - began) * 1e6) / steps);
  }
  return Math.round(best);
}

function wideImage(): Uint8Array {
  const attributes = { uid: 0, gid: 0, size: 0, mtime: 0, mtimeNsec: 0, rdev: 0 };
  const root = new TreeNode("", { ...attributes, mode: modeTypes.dir | 0o755 });
  for (const name of names)
    root.children?.set(name.toString(), new TreeNode(name.toString(), { ...attributes, mode: modeTypes.file | 0o644 }));
  const nodeCount = numberTree(root).length;
  const format = { chunkSize: 2 ** 20, compressor: 0, digester: 1, cipher: 0, explicitUidGid: true, hasXattr: false };
  return writeBootstrap({ root, nodeCount, blobs: [], prefetch: [], ...format });
}
