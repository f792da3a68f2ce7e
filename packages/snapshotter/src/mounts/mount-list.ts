import { type IdMap, idMapOptions } from "../layers/id-map.ts";

/** One mount as containerd takes it. */
export interface Mount {
  readonly type: string;
  readonly source: string;
  readonly target: string;
  readonly options: readonly string[];
}

export interface MountRequest {
  readonly kind: "active" | "view";
  /** Own directories of the snapshot. */
  readonly fs: string;
  readonly work: string;
  /** Lower directories, the top one first. */
  readonly lowers: readonly string[];
  readonly volatile: boolean;
  readonly idMap: IdMap | undefined;
}

/**
 * The mounts of a snapshot, always a list of one. Source: spec/snapshotter.md 7.1.
 * Ids are short decimals, so 127 lower directories fit the kernel's page of options once containerd has changed into their common directory.
 */
export function mountList(request: MountRequest): Mount[] {
  const { kind, fs, work, lowers } = request;
  const maps = idMapOptions(request.idMap);
  if (lowers.length === 0) return [bind(fs, [kind === "active" ? "rw" : "ro", "rbind", ...maps])];
  if (kind === "view" && lowers.length === 1) return [bind(lowers[0], ["ro", "rbind", ...maps])];
  const lowerdir = `lowerdir=${lowers.join(":")}`;
  if (kind === "view") return [overlay([...maps, lowerdir])];
  // redirect_dir: without it rename(2) of a directory that comes from a lower layer is EXDEV (containerd's suite asks for it; the original fails).
  return [overlay([`workdir=${work}`, `upperdir=${fs}`, "redirect_dir=on", ...(request.volatile ? ["volatile"] : []), ...maps, lowerdir])];
}

const bind = (source: string, options: string[]): Mount => ({ type: "bind", source, target: "", options });
const overlay = (options: string[]): Mount => ({ type: "overlay", source: "overlay", target: "", options });
