import { freeShareMin, openFilesMin, probeTimeoutMs } from "../limits.ts";
import { checkContainerd } from "./containerd.ts";
import { checkDisk } from "./disk.ts";
import { bad, type Finding } from "./finding.ts";
import { checkFileSystems, checkFuse, checkKernel, checkLimits, machine, type Roots } from "./kernel.ts";
import { checkMirrors, checkRegistry } from "./registry.ts";
import { readSnapshotterConfig } from "./snapshotter-config.ts";
import { checkDaemons, checkGrpcSocket } from "./sockets.ts";

export interface DoctorOptions {
  readonly containerdConfig: string;
  readonly containerdAddress: string;
  readonly snapshotterConfig: string;
  /** Overrides what the snapshotter's configuration says. */
  readonly snapshotterAddress?: string | undefined;
  readonly root?: string | undefined;
  readonly snapshotterName: string;
  /** API sockets of daemons to ask, besides those below the root. */
  readonly daemonSockets: readonly string[];
  /** Image references or hosts whose registry must answer. */
  readonly references: readonly string[];
  readonly machine?: Roots;
}

/** Looks at everything lazy pulling needs on this machine; changes nothing. A check that fails itself is a finding, not the end. */
export async function examine(options: DoctorOptions): Promise<Finding[]> {
  const roots = options.machine ?? machine;
  const snapshotter = readSnapshotterConfig(options.snapshotterConfig);
  const address = options.snapshotterAddress ?? snapshotter.facts.address;
  const root = options.root ?? snapshotter.facts.root;
  const containerd = checkContainerd({
    configPath: options.containerdConfig,
    snapshotterAddress: address,
    snapshotterName: options.snapshotterName,
  });
  const checks: readonly (readonly [string, () => Finding[] | Promise<Finding | Finding[]>])[] = [
    ["kernel", () => checkKernel(roots)],
    ["fuse", () => checkFuse(roots)],
    ["file systems", () => checkFileSystems(roots)],
    ["limits", () => checkLimits(roots, openFilesMin)],
    ["snapshotter", () => snapshotter.findings],
    ["containerd", () => containerd.findings],
    ["containerd socket", () => checkGrpcSocket("containerd", options.containerdAddress, probeTimeoutMs, ["systemctl start containerd"])],
    ["snapshotter socket", () => checkGrpcSocket("snapshotter", address, probeTimeoutMs, ["systemctl start nydus-snapshotter"])],
    ["nydusd", () => checkDaemons(root, options.daemonSockets, probeTimeoutMs)],
    ["disk", () => checkDisk(root, freeShareMin)],
    [
      "mirrors",
      () =>
        checkMirrors({
          containerdDirs: containerd.facts.hostsDirs,
          snapshotterDirs: snapshotter.facts.mirrorsDirs,
          snapshotterConfig: options.snapshotterConfig,
        }),
    ],
    ...options.references.map((reference) => ["registry", () => checkRegistry(reference, probeTimeoutMs)] as const),
  ];
  const results = await Promise.all(
    checks.map(async ([name, check]) => {
      try {
        return await check();
      } catch (error) {
        return bad(name, `the check itself failed: ${(error as Error).message}`);
      }
    }),
  );
  return results.flat();
}
