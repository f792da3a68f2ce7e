import { existsSync, readFileSync } from "node:fs";
import toml from "toml";
import { bad, type Finding, ok } from "./finding.ts";
import { tomlLine } from "./toml-line.ts";

export interface SnapshotterFacts {
  readonly root: string;
  readonly address: string;
  readonly mirrorsDirs: readonly string[];
}

const defaults: SnapshotterFacts = {
  root: "/var/lib/containerd/io.containerd.snapshotter.v1.nydus",
  address: "/run/containerd-nydus/containerd-nydus-grpc.sock",
  mirrorsDirs: [],
};

/** The three values of the snapshotter's configuration that the other checks need; defaults where the file has none. */
export function readSnapshotterConfig(path: string): { findings: Finding[]; facts: SnapshotterFacts } {
  if (!existsSync(path)) return { findings: [ok("snapshotter", `${path} is not there; the defaults count`)], facts: defaults };
  try {
    const config = toml.parse(readFileSync(path, "utf8")) as Record<string, unknown>;
    const remote = config["remote"] as { mirrors_config?: { dir?: unknown } } | undefined;
    const dir = remote?.mirrors_config?.dir;
    return {
      findings: [ok("snapshotter", `${path} is readable`)],
      facts: {
        root: typeof config["root"] === "string" && config["root"] !== "" ? config["root"] : defaults.root,
        address: typeof config["address"] === "string" && config["address"] !== "" ? config["address"] : defaults.address,
        mirrorsDirs: typeof dir === "string" && dir !== "" ? [dir] : [],
      },
    };
  } catch (error) {
    const line = tomlLine(error);
    return { findings: [bad("snapshotter", `${path}:${line}: not valid TOML; the snapshotter will not start`)], facts: defaults };
  }
}
