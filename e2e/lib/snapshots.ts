import { mkdirSync, rmdirSync } from "node:fs";
import { mount, umount2 } from "@nydus-ts/linux";
import type { ReplyOf } from "@nydus-ts/snapshotter";
import { TestClient } from "@nydus-ts/snapshotter/testing";
import type { Stack } from "./stack.ts";

/** The snapshots service of the stack, called without containerd in between. */
export function snapshotsOf(stack: Pick<Stack, "snapshotter">): TestClient & Disposable {
  const client = new TestClient(stack.snapshotter.socket);
  return Object.assign(client, { [Symbol.dispose]: () => client.close() });
}

/** The snapshot that containers of an image stand on: the one with the bootstrap, by the image it was pulled as. */
export async function bootstrapOf(client: TestClient, image: string): Promise<string> {
  const filter = `labels."containerd.io/snapshot/cri.image-ref"==${JSON.stringify(image)},labels."containerd.io/snapshot/nydus-bootstrap"==true`;
  const [name, ...more] = await client.names([filter]);
  if (name === undefined || more.length > 0) throw new Error(`${image} has ${more.length + (name === undefined ? 0 : 1)} bootstraps`);
  return name;
}

/** Mounts what Prepare answered, as containerd's shim does; disposal unmounts it. */
export function mountAt(target: string, mounts: ReplyOf<"Mounts">["mounts"]): Disposable {
  const [{ type, source, options }, ...more] = mounts;
  if (type !== "overlay" || more.length > 0) throw new TypeError(`expected one overlay, not ${type} and ${more.length} more`);
  mkdirSync(target, { recursive: true });
  mount({ source, target, type, flags: 0, options: options.join(",") });
  return {
    [Symbol.dispose]: () => {
      umount2(target, 0);
      rmdirSync(target);
    },
  };
}
