import { modeTypes } from "@nydus-ts/rafs-format";
import { numberTree, TreeNode } from "@nydus-ts/rafs-format/writer";
import { describe, expect, test } from "vitest";
import { cloneTree, overlay } from "../src/overlay.ts";

type Shape = { [name: string]: Shape | string };

/** Directories are objects; a file is a text, which becomes its owner so that it can be told from others. */
function treeOf(shape: Shape, name = "", mode = 0o755): TreeNode {
  const node = new TreeNode(name, { mode: modeTypes.dir | mode, uid: 0, gid: 0, size: 0, mtime: 0, mtimeNsec: 0, rdev: 0 });
  for (const [child, value] of Object.entries(shape)) {
    node.children!.set(
      child,
      typeof value === "string"
        ? new TreeNode(child, { mode: modeTypes.file | 0o644, uid: Number(value), gid: 0, size: 0, mtime: 0, mtimeNsec: 0, rdev: 0 })
        : treeOf(value, child),
    );
  }
  return node;
}

function shapeOf(node: TreeNode): Shape {
  numberTree(node);
  const shape: Shape = {};
  for (const child of node.sorted) shape[child.name] = child.isDirectory ? shapeOf(child) : String(child.uid);
  return shape;
}

const union = (...layers: Shape[]): Shape =>
  shapeOf(layers.map((layer) => treeOf(layer)).reduce<TreeNode | undefined>((lower, upper) => overlay(lower, upper, "oci"), undefined)!);

describe("layers put on each other", () => {
  test("files of both are there; of two with one name the upper is", () => {
    expect(union({ a: "1", d: { x: "1", y: "1" } }, { b: "2", d: { y: "2" } })).toEqual({ a: "1", b: "2", d: { x: "1", y: "2" } });
  });
  test("a whiteout removes the file or directory of lower layers and vanishes itself", () => {
    expect(union({ a: "1", d: { x: "1" }, e: "1" }, { ".wh.a": "0", ".wh.d": "0" })).toEqual({ e: "1" });
  });
  test("a whiteout does not act on its own layer, whatever their order", () => {
    expect(union({ a: "1" }, { ".wh.a": "0", a: "2" })).toEqual({ a: "2" });
  });
  test("an opaque directory shows nothing of lower layers, but all of its own", () => {
    expect(union({ d: { x: "1", s: { y: "1" } } }, { d: { ".wh..wh..opq": "0", z: "2" } })).toEqual({ d: { z: "2" } });
  });
  test("whiteouts without anything to act on leave no file behind, in the lowest layer too", () => {
    expect(union({ ".wh.never": "0", d: { ".wh..wh..opq": "0", a: "1" } }, { n: { ".wh.x": "0" } })).toEqual({ d: { a: "1" }, n: {} });
  });
  test("a file takes the place of a directory, and a directory that of a file", () => {
    expect(union({ a: { x: "1" }, b: "1" }, { a: "2", b: { y: "2" } })).toEqual({ a: "2", b: { y: "2" } });
  });
  test("what was removed can come back in a later layer", () => {
    expect(union({ a: "1" }, { ".wh.a": "0" }, { a: "3" })).toEqual({ a: "3" });
  });
  test("a directory that a layer only implies keeps the lower layer's mode", () => {
    const lower = treeOf({});
    lower.children!.set("tmp", treeOf({}, "tmp", 0o1777));
    const upper = treeOf({ tmp: { file: "1" } });
    upper.children!.get("tmp")!.implicit = true;
    const result = overlay(lower, upper, "oci").children!.get("tmp")!;
    expect([result.mode & 0o7777, [...result.children!.keys()]]).toEqual([0o1777, ["file"]]);
  });
  test("overlayfs whiteouts: a 0:0 device removes, the opaque xattr empties and goes", () => {
    const lower = treeOf({ gone: "1", d: { old: "1" } });
    const upper = treeOf({ d: { fresh: "2" } });
    upper.children!.set("gone", new TreeNode("gone", { mode: modeTypes.char, uid: 0, gid: 0, size: 0, mtime: 0, mtimeNsec: 0, rdev: 0 }));
    upper.children!.get("d")!.xattrs = new Map([["trusted.overlay.opaque", Buffer.from("y")]]);
    const result = overlay(lower, upper, "overlayfs");
    expect(result.children!.get("d")!.xattrs).toBeUndefined();
    expect(shapeOf(result)).toEqual({ d: { fresh: "2" } });
  });
  test("a clone can be used up while the first stays", () => {
    const first = treeOf({ a: "1", d: { x: "1" } });
    overlay(cloneTree(first), treeOf({ ".wh.d": "0" }), "oci");
    expect(shapeOf(first)).toEqual({ a: "1", d: { x: "1" } });
  });
});
