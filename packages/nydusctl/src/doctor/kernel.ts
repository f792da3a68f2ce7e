import { accessSync, closeSync, constants, existsSync, openSync, readFileSync } from "node:fs";
import { release } from "node:os";
import { bad, type Finding, ok, warn } from "./finding.ts";

/** Where the checks look: the real machine, or a folder that stands for it in tests. */
export interface Roots {
  readonly proc: string;
  readonly dev: string;
  readonly kernelRelease: string;
}

export const machine: Roots = { proc: "/proc", dev: "/dev", kernelRelease: release() };

export function checkKernel({ kernelRelease }: Roots): Finding[] {
  const [major = 0, minor = 0] = kernelRelease.split(".").map((part) => Number.parseInt(part, 10));
  const atLeast = (a: number, b: number): boolean => major > a || (major === a && minor >= b);
  if (!atLeast(4, 11)) return [bad("kernel", `Linux ${kernelRelease} is too old; 4.11 or later is needed`)];
  if (!atLeast(6, 9)) {
    return [warn("kernel", `Linux ${kernelRelease} works; from 6.9 on requests in flight also survive a daemon that is killed`)];
  }
  return [ok("kernel", `Linux ${kernelRelease}`)];
}

export function checkFuse({ dev }: Roots): Finding[] {
  const path = `${dev}/fuse`;
  if (!existsSync(path)) {
    return [bad("fuse", `${path} is missing`, "modprobe fuse", "echo fuse > /etc/modules-load.d/fuse.conf   # also after a reboot")];
  }
  try {
    closeSync(openSync(path, constants.O_RDWR));
    return [ok("fuse", `${path} can be opened`)];
  } catch (error) {
    const reason = (error as NodeJS.ErrnoException).code;
    return [bad("fuse", `${path} can't be opened (${reason})`, "run as root; in a container add: --device /dev/fuse --cap-add SYS_ADMIN")];
  }
}

export function checkFileSystems({ proc, kernelRelease }: Roots): Finding[] {
  const known = new Set(
    readFileSync(`${proc}/filesystems`, "utf8")
      .split("\n")
      .map((text) => text.split("\t")[1]),
  );
  const loadable = (name: string): boolean => existsSync(`/lib/modules/${kernelRelease}/kernel/fs/${name}`);
  const findings: Finding[] = [];
  if (known.has("overlay")) findings.push(ok("overlayfs", "overlay is known to the kernel"));
  else
    findings.push(
      bad(
        "overlayfs",
        "the kernel has no overlay file system loaded",
        "modprobe overlay",
        "echo overlay > /etc/modules-load.d/overlay.conf",
      ),
    );
  if (known.has("erofs")) findings.push(ok("erofs", "EROFS is known to the kernel"));
  else if (loadable("erofs")) findings.push(warn("erofs", "EROFS is not loaded; only needed for the in-kernel drivers", "modprobe erofs"));
  else findings.push(warn("erofs", "this kernel has no EROFS; FUSE mounts (the default) do not need it"));
  return findings;
}

/** Limits that many images run into. */
export function checkLimits({ proc }: Roots, openFilesMin: number): Finding[] {
  const findings: Finding[] = [];
  const soft = /^Max open files\s+(\d+|unlimited)\s+(\d+|unlimited)/m.exec(readFileSync(`${proc}/self/limits`, "utf8"));
  const hard = soft?.[2] === "unlimited" ? Number.POSITIVE_INFINITY : Number(soft?.[2] ?? 0);
  if (hard >= openFilesMin) findings.push(ok("limits", `up to ${hard} open files for a process`));
  else {
    const folder = "/etc/systemd/system/nydus-snapshotter.service.d";
    const fix = [`mkdir -p ${folder}`, `printf '[Service]\\nLimitNOFILE=1048576\\n' > ${folder}/limits.conf`, "systemctl daemon-reload"];
    findings.push(warn("limits", `a process may open ${hard} files only; a daemon with many images wants ${openFilesMin}`, ...fix));
  }
  const fileMax = Number(readFileSync(`${proc}/sys/fs/file-max`, "utf8"));
  if (fileMax < 32_768)
    findings.push(bad("limits", `fs.file-max is ${fileMax}; at least 32768 are needed`, "sysctl -w fs.file-max=1000000"));
  return findings;
}

export function isWritable(path: string): boolean {
  try {
    accessSync(path, constants.W_OK);
    return true;
  } catch {
    return false;
  }
}
