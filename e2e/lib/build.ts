import { buildBundles } from "../../scripts/build/bundles.ts";

/** vitest's global set-up of the e2e project: what is tested is what is shipped, one bundle per executable. */
export default async function setup(): Promise<void> {
  if (process.env["NYDUS_TEST_BIN"] === undefined) await buildBundles();
}
