// npm run bench: every benchmark, one after the other. Arguments go to all of them: npm run bench -- --keep
//   bin/node bench/run.ts [--only cold-start,memory] [further arguments]
import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { join } from "node:path";

const args = process.argv.slice(2);
const at = args.indexOf("--only");
const only = at < 0 ? undefined : args.splice(at, 2)[1]?.split(",");
const scripts = readdirSync(import.meta.dirname)
  .filter((name) => name.endsWith(".ts") && name !== "run.ts")
  .filter((name) => only?.includes(name.slice(0, -3)) ?? true);

let failed = 0;
for (const name of scripts) {
  process.stdout.write(`\n== ${name}\n`);
  const { status } = spawnSync(join(import.meta.dirname, "../bin/node"), [join(import.meta.dirname, name), ...args], { stdio: "inherit" });
  if (status !== 0) failed++;
}
process.exitCode = failed === 0 ? 0 : 1;
