import { existsSync, statfsSync } from "node:fs";
import { dirname } from "node:path";
import { bad, type Finding, ok, warn } from "./finding.ts";
import { isWritable } from "./kernel.ts";

/** statfs(2) f_type of file systems that matter here; from include/uapi/linux/magic.h. */
const fileSystems: Record<number, { readonly name: string; readonly fault?: string }> = {
  61267: { name: "ext4" },
  1481003842: { name: "xfs" },
  2435016766: { name: "btrfs" },
  16914836: { name: "tmpfs", fault: "what is cached lives in memory and is gone after a reboot" },
  2035054128: { name: "overlayfs", fault: "overlayfs can't be stacked on it; mount a real disk or volume there" },
  26985: { name: "nfs", fault: "overlayfs can't write there; use a local disk" },
  4283649346: { name: "cifs", fault: "overlayfs can't write there; use a local disk" },
  1702057286: { name: "fuse", fault: "overlayfs may not work there; use a local disk" },
};

/** Space, inodes and kind of the file system below the snapshotter's root, which holds the cache. */
export function checkDisk(root: string, freeShareMin: number): Finding[] {
  let path = root;
  while (!existsSync(path) && path !== dirname(path)) path = dirname(path);
  const stats = statfsSync(path);
  const findings: Finding[] = [];
  const kind = fileSystems[stats.type];
  const name = kind?.name ?? `file system 0x${stats.type.toString(16)}`;
  const gib = (blocks: number): string => `${((blocks * stats.bsize) / 1024 ** 3).toFixed(1)} GiB`;
  if (kind?.fault === undefined) findings.push(ok("disk", `${root} is on ${name}`));
  else
    findings.push(
      (kind.name === "tmpfs" ? warn : bad)(
        "disk",
        `${root} is on ${name}: ${kind.fault}`,
        'root = "/a/local/disk"   # in /etc/nydus/config.toml',
      ),
    );
  const free = stats.blocks === 0 ? 1 : stats.bavail / stats.blocks;
  if (free < freeShareMin)
    findings.push(warn("disk", `${gib(stats.bavail)} of ${gib(stats.blocks)} are free at ${root}`, "crictl rmi --prune"));
  else findings.push(ok("disk", `${gib(stats.bavail)} are free at ${root}`));
  if (stats.files > 0 && stats.ffree / stats.files < freeShareMin)
    findings.push(warn("disk", `${stats.ffree} of ${stats.files} inodes are free at ${root}`));
  if (!isWritable(path)) findings.push(bad("disk", `${path} can't be written`, "run as root, or remount the file system read-write"));
  return findings;
}
