import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { cpus, release, totalmem } from "node:os";
import { join } from "node:path";

const repositoryRoot = join(import.meta.dirname, "../..");

/** Where figures come from: printed with every benchmark and kept with its results. */
export function machine(): Record<string, string> {
  const git = (...args: string[]): string => {
    try {
      return execFileSync("git", args, { cwd: repositoryRoot, encoding: "utf8" }).trim();
    } catch {
      return "unknown";
    }
  };
  return {
    processor: `${cpus().length} x ${/model name\s*: (.*)/.exec(readFileSync("/proc/cpuinfo", "utf8"))?.[1] ?? process.arch}`,
    memory: `${Math.round(totalmem() / 2 ** 30)} GiB`,
    kernel: release(),
    node: process.version,
    commit: git("rev-parse", "--short", "HEAD"),
    date: new Date().toISOString().slice(0, 10),
  };
}

/** Keeps results as JSON beside the script, `cold-start.ts` as `cold-start.json`. */
export function keepResults(script: string, results: unknown): void {
  writeFileSync(script.replace(/\.ts$/, ".json"), `${JSON.stringify({ machine: machine(), results }, undefined, 2)}\n`);
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? (sorted[middle] as number) : ((sorted[middle - 1] as number) + (sorted[middle] as number)) / 2;
}

/** Lines of cells as columns; the first line is the head. */
export function table(rows: readonly (readonly string[])[]): string {
  const widths = rows[0]?.map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0))) ?? [];
  return rows
    .map((row) =>
      row.map((cell, column) => (column === 0 ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0))).join("  "),
    )
    .join("\n");
}

export const mebibytes = (bytes: number): string => (bytes / 2 ** 20).toFixed(1);
