// Exit 0 when node_modules holds what package-lock.json asks for. Runs on the machine's own Node (18 or newer), so it is plain JavaScript.
import { existsSync, readFileSync } from "node:fs";

/** Of optional packages npm installs those that name this machine; which libc it has is not looked at, so those for one are not asked for. */
const isForThisMachine = ({ os, cpu, libc }) => os?.includes(process.platform) && cpu?.includes(process.arch) && libc === undefined;

const readPackages = (file) => (existsSync(file) ? JSON.parse(readFileSync(file, "utf8")).packages : undefined);
const wanted = readPackages("package-lock.json");
const present = readPackages("node_modules/.package-lock.json");

if (present === undefined) process.exit(1);
for (const [path, entry] of Object.entries(wanted)) {
  if (!path.startsWith("node_modules/") && !path.includes("/node_modules/")) continue;
  const found = present[path];
  if (
    found === undefined
      ? !entry.optional || isForThisMachine(entry)
      : found.version !== entry.version || found.integrity !== entry.integrity
  ) {
    process.stderr.write(`setup: ${path} is ${found?.version ?? "missing"}, package-lock.json says ${entry.version ?? "link"}\n`);
    process.exit(1);
  }
}
