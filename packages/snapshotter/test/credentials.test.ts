import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { dockerConfigCredentials } from "@nydus-ts/registry-client";
import { expect, test } from "vitest";
import { findAuth, labelCredentials } from "../src/auth/credentials.ts";
import { LABELS } from "../src/layers/labels.ts";
import { temporaryRoot } from "./support/world.ts";

const signal = AbortSignal.timeout(5_000);
const base64 = (text: string) => Buffer.from(text).toString("base64");
const never = (source: string, error: unknown) => expect.unreachable(`${source}: ${error}`);

test("a docker login to Docker Hub is found for docker.io, and labels come before it", async () => {
  await using root = temporaryRoot();
  const file = join(root.path, "config.json");
  writeFileSync(file, JSON.stringify({ auths: { "https://index.docker.io/v1/": { auth: base64("hub:secret") } } }));
  const docker = dockerConfigCredentials({ file });
  expect(await findAuth("docker.io", [labelCredentials({}), docker], { signal, warn: never })).toEqual({
    kind: "basic",
    base64: base64("hub:secret"),
  });
  expect(await findAuth("other.example", [docker], { signal, warn: never })).toBeUndefined();
  const labels = labelCredentials({ [LABELS.pullUser]: "u", [LABELS.pullSecret]: "p:q" });
  expect(await findAuth("docker.io", [labels, docker], { signal, warn: never })).toEqual({ kind: "basic", base64: base64("u:p:q") });
});

test("half a credential in labels is none", async () => {
  for (const labels of [{ [LABELS.pullUser]: "u" }, { [LABELS.pullSecret]: "p" }, { [LABELS.pullUser]: "", [LABELS.pullSecret]: "p" }])
    expect(await findAuth("h", [labelCredentials(labels)], { signal, warn: never })).toBeUndefined();
});

test("a password without a user is a bearer token", async () => {
  const source = { source: "x", lookup: async () => ({ kind: "basic", username: "", password: "t" }) as const };
  expect(await findAuth("h", [source], { signal, warn: never })).toEqual({ kind: "bearer", token: "t" });
});

test("a source that fails is skipped, with its reason and without its secrets", async () => {
  await using root = temporaryRoot();
  mkdirSync(join(root.path, "d"));
  const file = join(root.path, "d", "config.json");
  writeFileSync(file, "{ not json");
  const warned: string[] = [];
  const found = await findAuth(
    "h",
    [dockerConfigCredentials({ file }), { source: "second", lookup: async () => ({ kind: "bearer", token: "t" }) }],
    {
      signal,
      warn: (source, error) => warned.push(`${source}: ${error}`),
    },
  );
  expect(found).toEqual({ kind: "bearer", token: "t" });
  expect(warned).toEqual([expect.stringContaining(file)]);
});
