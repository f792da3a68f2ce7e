// Exit 0 when node_modules holds what package-lock.json asks for. Runs on the machine's own Node (18 or newer), so it is plain JavaScript.
import { existsSync, readFileSync } from "node:fs";

const readPackages = (file) => (existsSync(file) ? JSON.parse(readFileSync(file, "utf8")).packages : undefined);
const wanted = readPackages("package-lock.json");
const present = readPackages("node_modules/.package-lock.json");

if (present === undefined) process.exit(1);
for (const [path, entry] of Object.entries(wanted)) {
  if (!path.startsWith("node_modules/") && !path.includes("/node_modules/")) continue;
  const found = present[path];
  // Optional packages are those of other machines; that ours is there shows when bin/node starts.
  if (found === undefined ? !entry.optional : found.version !== entry.version || found.integrity !== entry.integrity) {
    process.stderr.write(`setup: ${path} is ${found?.version ?? "missing"}, package-lock.json says ${entry.version ?? "link"}\n`);
    process.exit(1);
  }
}
