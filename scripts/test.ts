// Runs the vitest projects one after another and sums them up in one line that CI reads. Usage: scripts/test.ts [unit|e2e] [vitest arguments]
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

interface Count {
  readonly passed: number;
  readonly failed: number;
}

const root = join(import.meta.dirname, "..");
const allProjects = ["unit", "e2e"];
const args = process.argv.slice(2);
const projects = allProjects.includes(args[0] ?? "") ? [args.shift() as string] : allProjects;

const results = mkdtempSync(join(tmpdir(), "nydus-test-"));
let total: Count = { passed: 0, failed: 0 };
try {
  for (const project of projects) {
    const count = await runProject(project, join(results, `${project}.json`));
    total = { passed: total.passed + count.passed, failed: total.failed + count.failed };
  }
} finally {
  rmSync(results, { recursive: true, force: true });
}
process.stdout.write(`${total.passed} passed, ${total.failed} failed\n`);
process.exitCode = total.failed === 0 ? 0 : 1;

async function runProject(project: string, jsonFile: string): Promise<Count> {
  const vitest = [
    "run",
    "--project",
    project,
    "--passWithNoTests",
    "--reporter=default",
    "--reporter=json",
    `--outputFile.json=${jsonFile}`,
  ];
  const code = await new Promise<number>((resolve, reject) => {
    const child = spawn(join(root, "bin/npx"), ["vitest", ...vitest, ...args], { cwd: root, stdio: "inherit" });
    child.on("error", reject);
    child.on("close", (status) => resolve(status ?? 1));
  });
  const count = readCount(jsonFile);
  // A file that does not load, or an error outside of any test, fails no test: it still is a failure.
  return code !== 0 && count.failed === 0 ? { passed: count.passed, failed: 1 } : count;
}

function readCount(jsonFile: string): Count {
  try {
    const report = JSON.parse(readFileSync(jsonFile, "utf8")) as { numPassedTests: number; numFailedTests: number };
    return { passed: report.numPassedTests, failed: report.numFailedTests };
  } catch {
    return { passed: 0, failed: 0 };
  }
}
