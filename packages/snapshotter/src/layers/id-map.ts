import { SnapshotterError } from "../errors.ts";
import { LABELS, type Labels } from "./labels.ts";

/** One range of a user namespace: container ids from `container` are host ids from `host`. */
export interface IdMap {
  readonly container: number;
  readonly host: number;
  readonly size: number;
}

/**
 * The id map a client asks for. Both labels must be given and equal, one range, 32-bit numbers. Source: spec/snapshotter.md 6.3.
 * @throws SnapshotterError SNAPSHOT_INVALID
 */
export function idMapOf(labels: Labels): IdMap | undefined {
  const uid = labels[LABELS.uidMapping];
  const gid = labels[LABELS.gidMapping];
  if (uid === undefined && gid === undefined) return undefined;
  const invalid = (what: string) =>
    new SnapshotterError(
      "SNAPSHOT_INVALID",
      `id mapping uid=${uid ?? "(none)"} gid=${gid ?? "(none)"}: ${what}; expected CONTAINER:HOST:SIZE twice`,
    );
  if (uid !== gid || uid === undefined) throw invalid("both labels must be given and equal");
  const match = /^(\d{1,10}):(\d{1,10}):(\d{1,10})$/.exec(uid);
  if (match === null) throw invalid("not one range of three numbers");
  const [container, host, size] = match.slice(1).map(Number);
  const beyond = 2 ** 32;
  if (size === 0 || container + size > beyond || host + size > beyond) throw invalid("the range is empty or passes 32 bits");
  return { container, host, size };
}

export const idMapOptions = (map: IdMap | undefined): string[] =>
  map === undefined ? [] : [`uidmap=${map.container}:${map.host}:${map.size}`, `gidmap=${map.container}:${map.host}:${map.size}`];
