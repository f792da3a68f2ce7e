/** An image in a registry of the process, converted by nydusify. */
import { gzipSync } from "node:zlib";
import type { TestRegistry } from "@nydus-ts/registry-client/testing";
import { expect } from "vitest";
import { nydusify } from "../src/index.ts";
import { base, onlyDirectories, sha256, startRegistry, upper } from "./convert-support.ts";
import { type Outcome, run } from "./support.ts";

export const tool = (...argv: string[]): Promise<Outcome> => run(argv, { program: nydusify });

export async function succeed(...argv: string[]): Promise<Outcome> {
  const outcome = await tool(...argv);
  expect([outcome.code, outcome.stderr]).toEqual([0, expect.not.stringContaining("level=fatal")]);
  return outcome;
}

export function putOciImage(registry: TestRegistry, repository: string, layers: readonly Buffer[], tag = "v1"): string {
  registry.putImage(
    repository,
    tag,
    layers.map((layer) => gzipSync(layer)),
    {
      config: { architecture: "amd64", os: "linux", config: { Cmd: ["sh"] }, rootfs: { type: "layers", diff_ids: layers.map(sha256) } },
    },
  );
  return `${registry.host}/${repository}:${tag}`;
}

/** `app:v1` and what it became, `app:nydus`. */
export async function converted(...options: string[]): Promise<{ registry: TestRegistry; source: string; nydus: string }> {
  const registry = await startRegistry();
  const source = putOciImage(registry, "app", [base, upper, onlyDirectories]);
  const nydus = `${registry.host}/app:nydus`;
  await succeed("convert", "--source", source, "--target", nydus, ...options);
  return { registry, source, nydus };
}
