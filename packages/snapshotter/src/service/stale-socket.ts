import { existsSync, lstatSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { SnapshotterError } from "../errors.ts";

/** Removes a socket file nobody listens on. @throws SnapshotterError CONFIG_INVALID: somebody does, or it is no socket */
export async function removeStaleSocket(path: string): Promise<void> {
  if (!existsSync(path)) return;
  if (!lstatSync(path).isSocket())
    throw new SnapshotterError("CONFIG_INVALID", `address ${path}: there is a file that is no socket; remove it or choose another address`);
  const alive = await new Promise<boolean>((resolve) => {
    const probe = connect(path);
    probe.once("connect", () => {
      probe.destroy();
      resolve(true);
    });
    probe.once("error", () => resolve(false));
  });
  if (alive) throw new SnapshotterError("CONFIG_INVALID", `address ${path}: another process listens there; stop it first`);
  rmSync(path, { force: true });
}
