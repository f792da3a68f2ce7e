import type { DaemonInfo, MountedBackend } from "@nydus-ts/nydus-api";
import { line } from "./numbers.ts";

const column = 24;

/** Text of `nydusctl info`. Source of the layout: spec/nydusctl.md 4.1. */
export function infoText(info: DaemonInfo): string {
  const lines = [
    "",
    line("Version:", JSON.stringify(info.version.package_ver), column),
    line("Status:", JSON.stringify(info.state), column),
    line("Profile:", JSON.stringify(info.version.profile ?? "unknown"), column),
    line("Commit:", JSON.stringify(info.version.git_commit ?? "unknown"), column),
  ];
  const instances = Object.entries(info.backend_collection ?? {}).sort(([a], [b]) => (a < b ? -1 : 1));
  if (instances.length > 0) lines.push("Instances:", ...instances.flatMap(([path, backend]) => instanceLines(path, backend)));
  return `${lines.join("\n")}\n`;
}

function instanceLines(path: string, backend: MountedBackend): string[] {
  const lines = [
    `\tInstance Mountpoint:  ${path}`,
    `\tType:  ${backend.backend_type}`,
    `\tMounted Time:  ${backend.mounted_time === undefined ? "unknown" : shortTime(backend.mounted_time)}`,
  ];
  if (backend.backend_type !== "Rafs") return lines;
  const config = backend.config as { rafs?: Record<string, unknown>; cache?: { prefetch?: Record<string, unknown> } } | null | undefined;
  lines.push(
    `\tMode:  ${config?.rafs?.["mode"] ?? "unknown"}`,
    `\tPrefetch:  ${config?.cache?.prefetch?.["enable"] ?? "unknown"}`,
    `\tPrefetch Merging Size:  ${config?.cache?.prefetch?.["batch_size"] ?? "unknown"}`,
    "",
  );
  return lines;
}

/** Hour without leading zero, fraction without trailing zeros: `2026-03-04 5:06:07.123 +00:00:00`. */
function shortTime(time: string): string {
  return time.replace(/ 0(\d:)/, " $1").replace(/(\.\d+?)0*(?= )/, "$1");
}
