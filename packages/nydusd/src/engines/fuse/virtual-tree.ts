import assert from "node:assert/strict";

/** A directory that exists in memory only, above or at the place of images. */
export interface PseudoNode {
  /** 1 is the root; never used again for another path. */
  readonly ino: number;
  /** 0 for the root. */
  readonly parent: number;
  readonly name: string;
  /** Index of the image mounted here; 0 for none. */
  readonly image: number;
  /** Seconds since 1970 of the last change of its entries. */
  readonly changedSeconds: number;
}

type MutableNode = { -readonly [Key in keyof PseudoNode]: PseudoNode[Key] };

/**
 * The directories that lead to the mounted images. The main thread keeps it; workers get a snapshot with every change.
 * A directory stays when its image goes. Source: spec/nydusd.md 6.1
 */
export class VirtualTree {
  readonly #nodes = new Map<number, MutableNode>();
  #nextIno = 2;

  constructor() {
    this.#nodes.set(1, { ino: 1, parent: 0, name: "", image: 0, changedSeconds: nowSeconds() });
  }

  /** Puts an image at a path, making the directories that lack. Returns the nodes whose entries changed. */
  place(path: string, image: number): number[] {
    const { node, changed } = this.#make(path);
    node.image = image;
    if (node.parent !== 0) changed.push(node.parent);
    return [...new Set(changed)];
  }

  /** Takes the image away from a path; the directory stays. */
  clear(path: string): void {
    const node = this.find(path);
    assert(node !== undefined, `no pseudo directory ${path}`);
    (node as MutableNode).image = 0;
  }

  find(path: string): PseudoNode | undefined {
    let node = this.#nodes.get(1);
    for (const name of namesOf(path)) {
      if (node === undefined) return undefined;
      node = this.#child(node.ino, name);
    }
    return node;
  }

  /** All nodes, parents before children. */
  snapshot(): PseudoNode[] {
    return [...this.#nodes.values()].map((node) => ({ ...node }));
  }

  /** What a successor needs so that the kernel's node ids keep their meaning. */
  inodes(): { path: string; ino: number }[] {
    return this.snapshot()
      .filter((node) => node.ino !== 1)
      .map((node) => ({ path: this.#pathOf(node), ino: node.ino }));
  }

  /** Gives the directories the numbers a predecessor gave them. Images placed before stay at their paths. */
  restore(inodes: readonly { readonly path: string; readonly ino: number }[]): void {
    const images = this.snapshot().filter((node) => node.image !== 0);
    const placed = images.map((node) => [this.#pathOf(node), node.image] as const);
    this.#nodes.clear();
    this.#nodes.set(1, { ino: 1, parent: 0, name: "", image: 0, changedSeconds: nowSeconds() });
    this.#nextIno = Math.max(1, ...inodes.map(({ ino }) => ino)) + 1;
    const byDepth = [...inodes].sort((a, b) => namesOf(a.path).length - namesOf(b.path).length);
    const numbers = new Map(byDepth.map(({ path, ino }) => [path, ino]));
    for (const { path } of byDepth) this.#make(path, numbers);
    for (const [path, image] of placed) this.place(path, image);
  }

  #make(path: string, numbers?: ReadonlyMap<string, number>): { node: MutableNode; changed: number[] } {
    let node = this.#nodes.get(1) as MutableNode;
    let walked = "";
    const changed: number[] = [];
    for (const name of namesOf(path)) {
      walked += `/${name}`;
      let child = this.#child(node.ino, name);
      if (child === undefined) {
        const ino = numbers?.get(walked) ?? this.#nextIno++;
        child = { ino, parent: node.ino, name, image: 0, changedSeconds: nowSeconds() };
        this.#nodes.set(child.ino, child);
        node.changedSeconds = nowSeconds();
        changed.push(node.ino);
      }
      node = child;
    }
    return { node, changed };
  }

  #child(parent: number, name: string): MutableNode | undefined {
    for (const node of this.#nodes.values()) if (node.parent === parent && node.name === name) return node;
    return undefined;
  }

  #pathOf(node: PseudoNode): string {
    const names: string[] = [];
    for (let at: PseudoNode | undefined = node; at !== undefined && at.ino !== 1; at = this.#nodes.get(at.parent)) names.unshift(at.name);
    return `/${names.join("/")}`;
  }
}

const namesOf = (path: string): string[] => path.split("/").filter((name) => name !== "");
const nowSeconds = (): number => Math.floor(Date.now() / 1000);
