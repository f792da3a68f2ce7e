import { existsSync, readFileSync } from "node:fs";
import toml from "toml";
import { bad, type Finding, ok, warn } from "./finding.ts";
import { tomlLine } from "./toml-line.ts";

type Table = Record<string, unknown>;

/** What the other checks need to know of containerd's configuration. */
export interface ContainerdFacts {
  /** Directories of `<host>/hosts.toml` that containerd pulls by. */
  readonly hostsDirs: readonly string[];
}

export interface ContainerdExpectations {
  readonly configPath: string;
  /** Address the snapshotter listens on. */
  readonly snapshotterAddress: string;
  readonly snapshotterName: string;
}

/** Reads containerd's configuration (version 1, 2 or 3) and compares it with what lazy pulling needs. Source: spec/containerd.md 8. */
export function checkContainerd(expected: ContainerdExpectations): { findings: Finding[]; facts: ContainerdFacts } {
  const { configPath, snapshotterName: name } = expected;
  const none = { hostsDirs: [] };
  if (!existsSync(configPath)) {
    const text = `${configPath} is missing, so containerd does not know the snapshotter`;
    return { findings: [bad("containerd", text, `containerd config default > ${configPath}`, ...pluginLines(2, expected))], facts: none };
  }
  let config: Table;
  try {
    config = toml.parse(readFileSync(configPath, "utf8")) as Table;
  } catch (error) {
    const line = tomlLine(error);
    return { findings: [bad("containerd", `${configPath}:${line}: not valid TOML; containerd will not start`)], facts: none };
  }
  const version = typeof config["version"] === "number" ? config["version"] : 1;
  const findings = [...checkPlugin(config, version, expected), ...checkImages(config, version, expected)];
  const where = `${configPath} (version ${version})`;
  if (findings.every((finding) => finding.status === "ok"))
    findings.unshift(ok("containerd", `${where} is set up for snapshotter ${name}`));
  return { findings, facts: { hostsDirs: hostsDirs(config, version) } };
}

function checkPlugin(config: Table, version: number, expected: ContainerdExpectations): Finding[] {
  const { configPath, snapshotterAddress, snapshotterName: name } = expected;
  const plugin = table(config, "proxy_plugins", name);
  if (plugin === undefined)
    return [bad("containerd", `${configPath}: [proxy_plugins.${name}] is missing`, ...pluginLines(version, expected))];
  const findings: Finding[] = [];
  if (plugin["type"] !== "snapshot" && plugin["type"] !== "io.containerd.snapshotter.v1") {
    const found = JSON.stringify(plugin["type"]);
    findings.push(
      bad("containerd", `${configPath}: proxy_plugins.${name}.type is ${found}`, `[proxy_plugins.${name}]`, '  type = "snapshot"'),
    );
  }
  if (plugin["address"] !== snapshotterAddress) {
    const text = `${configPath}: proxy_plugins.${name}.address is ${JSON.stringify(plugin["address"])}, the snapshotter listens on ${snapshotterAddress}`;
    findings.push(bad("containerd", text, `[proxy_plugins.${name}]`, `  address = "${snapshotterAddress}"`));
  }
  if (findings.length === 0) findings.push(ok("containerd", `proxy plugin ${name} points to ${snapshotterAddress}`));
  return findings;
}

/** The CRI's image settings: where they stand, and where the snapshotter stands, depends on the version. */
function checkImages(config: Table, version: number, { configPath, snapshotterName: name }: ContainerdExpectations): Finding[] {
  const { path, settings } = imageSettings(config, version);
  const header = `[${path}]`;
  const findings: Finding[] = [];
  const usedByRuntime = runtimes(config, version).some((runtime) => runtime["snapshotter"] === name);
  if (settings["snapshotter"] !== name && !usedByRuntime) {
    const text = `${configPath}: ${path}.snapshotter is ${JSON.stringify(settings["snapshotter"] ?? "overlayfs")}; pods do not use ${name}`;
    findings.push(warn("containerd", `${text} (ctr and nerdctl can, with --snapshotter ${name})`, header, `  snapshotter = "${name}"`));
  }
  if (settings["disable_snapshot_annotations"] !== false) {
    const text = `${configPath}: ${path}.disable_snapshot_annotations is not false; images pulled for pods are not lazy`;
    findings.push(bad("containerd", text, header, "  disable_snapshot_annotations = false"));
  }
  if (settings["discard_unpacked_layers"] === true) {
    const text = `${configPath}: ${path}.discard_unpacked_layers is true; after a change of snapshotter images report "content digest … not found"`;
    findings.push(warn("containerd", text, header, "  discard_unpacked_layers = false"));
  }
  return findings;
}

const criPlugin = "io.containerd.grpc.v1.cri";
const imagesPlugin = "io.containerd.cri.v1.images";
const runtimePlugin = "io.containerd.cri.v1.runtime";

function imageSettings(config: Table, version: number): { path: string; settings: Table } {
  if (version >= 3) return { path: `plugins.'${imagesPlugin}'`, settings: table(config, "plugins", imagesPlugin) ?? {} };
  const plugin = version >= 2 ? criPlugin : "cri";
  const path = version >= 2 ? `plugins."${criPlugin}".containerd` : "plugins.cri.containerd";
  return { path, settings: table(config, "plugins", plugin, "containerd") ?? {} };
}

function runtimes(config: Table, version: number): Table[] {
  const plugin = version >= 3 ? runtimePlugin : version >= 2 ? criPlugin : "cri";
  const all = table(config, "plugins", plugin, "containerd", "runtimes") ?? {};
  const platforms = version >= 3 ? (table(config, "plugins", imagesPlugin, "runtime_platforms") ?? {}) : {};
  return [...Object.values(all), ...Object.values(platforms)].filter(isTable);
}

function hostsDirs(config: Table, version: number): string[] {
  const plugin = version >= 3 ? imagesPlugin : version >= 2 ? criPlugin : "cri";
  const path = table(config, "plugins", plugin, "registry")?.["config_path"];
  return typeof path === "string" ? path.split(":").filter((part) => part !== "") : [];
}

function pluginLines(version: number, { snapshotterAddress, snapshotterName: name }: ContainerdExpectations): string[] {
  const { path } = imageSettings({}, version);
  return [
    `[proxy_plugins.${name}]`,
    '  type = "snapshot"',
    `  address = "${snapshotterAddress}"`,
    `[${path}]`,
    `  snapshotter = "${name}"`,
    "  disable_snapshot_annotations = false",
    "systemctl restart containerd",
  ];
}

function table(from: Table, ...path: string[]): Table | undefined {
  let current: unknown = from;
  for (const key of path) current = isTable(current) ? current[key] : undefined;
  return isTable(current) ? current : undefined;
}

function isTable(value: unknown): value is Table {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
