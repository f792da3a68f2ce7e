import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { MS_BIND, mount, umount2 } from "@nydus-ts/linux";
import { describe, expect, test } from "vitest";
import { Layout } from "../src/config/layout.ts";
import { SnapshotterError } from "../src/errors.ts";
import type { LayerKind } from "../src/layers/layer.ts";
import { planServe } from "../src/layers/plan.ts";
import { overlayOptionBytesMax, rootBytesMax } from "../src/limits.ts";
import { mountList } from "../src/mounts/mount-list.ts";
import type { Snapshot } from "../src/store/snapshots.ts";
import { temporaryRoot } from "./support/world.ts";

const own = { fs: "/s/9/fs", work: "/s/9/work", volatile: false, idMap: undefined };

describe("a list of mounts", () => {
  test.for([
    ["active", [], "bind /s/9/fs rw,rbind"],
    ["view", [], "bind /s/9/fs ro,rbind"],
    ["view", ["/s/1/fs"], "bind /s/1/fs ro,rbind"],
    ["active", ["/s/1/fs"], "overlay overlay workdir=/s/9/work,upperdir=/s/9/fs,redirect_dir=on,lowerdir=/s/1/fs"],
    ["active", ["/s/2/fs", "/s/1/fs"], "overlay overlay workdir=/s/9/work,upperdir=/s/9/fs,redirect_dir=on,lowerdir=/s/2/fs:/s/1/fs"],
    ["view", ["/s/2/fs", "/s/1/fs"], "overlay overlay lowerdir=/s/2/fs:/s/1/fs"],
  ] as const)("of an %s on %j is %s", ([kind, lowers, expected]) => {
    const [{ type, source, target, options }, ...more] = mountList({ ...own, kind, lowers });
    expect(`${type} ${source} ${options.join(",")}`).toBe(expected);
    expect([target, more]).toEqual(["", []]);
  });

  test("volatile and id maps stand before the lowers", () => {
    const [{ options }] = mountList({ ...own, kind: "active", lowers: ["/l"], volatile: true, idMap: { container: 0, host: 7, size: 9 } });
    expect(options).toEqual([
      "workdir=/s/9/work",
      "upperdir=/s/9/fs",
      "redirect_dir=on",
      "volatile",
      "uidmap=0:7:9",
      "gidmap=0:7:9",
      "lowerdir=/l",
    ]);
  });
});

test("127 layers below the longest root and six-digit ids are mounted by the kernel, shortened as containerd does it", async () => {
  await using root = temporaryRoot();
  const deep = join(root.path, "r".repeat(rootBytesMax - root.path.length - 1));
  expect(Buffer.byteLength(deep)).toBe(rootBytesMax);
  const layout = new Layout({ root: deep });
  const ids = Array.from({ length: 127 }, (_, index) => 999_999 - index);
  for (const id of [...ids, 100_000]) {
    mkdirSync(layout.fs(id), { recursive: true });
    mkdirSync(layout.work(id));
    writeFileSync(join(layout.fs(id), `file-${id}`), String(id));
  }
  const [{ options }] = mountList({
    kind: "active",
    fs: layout.fs(100_000),
    work: layout.work(100_000),
    volatile: false,
    idMap: undefined,
    lowers: ids.map((id) => layout.fs(id)),
  });
  expect(options.join(",").length).toBeGreaterThan(overlayOptionBytesMax);
  // containerd changes into the common directory of the lowers and names them from there. /proc/self/cwd stands for that here.
  const common = `${layout.snapshots}/`;
  const short = join(root.path, "c");
  mkdirSync(short);
  mount({ source: layout.snapshots, target: short, type: "", flags: MS_BIND });
  const lowers = options.map((option) => (option.startsWith("lowerdir=") ? option.replaceAll(common, "") : option));
  expect(lowers.join(",").length).toBeLessThan(overlayOptionBytesMax);
  const target = join(root.path, "t");
  mkdirSync(target);
  const before = process.cwd();
  process.chdir(short);
  try {
    mount({ source: "overlay", target, type: "overlay", flags: 0, options: lowers.join(",") });
  } finally {
    process.chdir(before);
  }
  expect(readFileSync(join(target, `file-${ids[0]}`), "utf8")).toBe(String(ids[0]));
  expect(readFileSync(join(target, `file-${ids[126]}`), "utf8")).toBe(String(ids[126]));
  umount2(target, 0);
  umount2(short, 0);
});

describe("what lies below a snapshot", () => {
  const chain = (...layers: LayerKind[]): Snapshot[] =>
    layers.map((layer, index) => ({ id: 10 - index, key: `k${10 - index}`, layer }) as Snapshot);

  test("ordinary layers are an overlay of all of them", () => {
    const parents = chain("ordinary", "ordinary");
    expect(planServe(parents)).toEqual({ mode: "overlay", lowers: parents });
    expect(planServe([])).toEqual({ mode: "overlay", lowers: [] });
  });

  test("a bootstrap hides what is below it and keeps what is above it", () => {
    const parents = chain("ordinary", "ordinary", "nydus-bootstrap", "nydus-blob", "nydus-blob");
    expect(planServe(parents)).toEqual({ mode: "lazy", bootstrap: parents[2], above: parents.slice(0, 2) });
  });

  test("the topmost of two nydus images counts", () => {
    const parents = chain("nydus-bootstrap", "nydus-blob", "nydus-bootstrap");
    expect(planServe(parents)).toMatchObject({ mode: "lazy", bootstrap: { id: 10 } });
  });

  test.for([[chain("nydus-blob")], [chain("ordinary", "nydus-blob", "nydus-bootstrap")]])("a blob on top cannot be shown", ([parents]) => {
    expect(() => planServe(parents)).toThrow(SnapshotterError);
  });
});
