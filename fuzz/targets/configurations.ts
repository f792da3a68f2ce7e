// Configurations that people and programs write: nydusd's JSON and TOML, hosts.toml, mirrors, prefetch lists.
import { deepStrictEqual } from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { BuilderError, parsePrefetchPatterns } from "@nydus-ts/builder";
import { MirrorConfigError, parseHostsFile, parseMirrors } from "@nydus-ts/mirror-config";
import { exportConfig, parseConfig } from "../../packages/nydusd/src/config/index.ts";
import { NydusdError } from "../../packages/nydusd/src/errors.ts";
import { mutateJson } from "../mutate.ts";
import type { Target } from "../target.ts";

const misc = join(import.meta.dirname, "../../misc/snapshotter");
const text = (bytes: Uint8Array): string => Buffer.from(bytes).toString();

const mirrors = [
  {
    host: "http://127.0.0.1:65001",
    headers: { "X-A": "b" },
    health_check_interval: 5,
    failure_limit: 5,
    ping_url: "http://127.0.0.1:65001/ping",
  },
];
const version1 = {
  device: {
    backend: {
      type: "registry",
      config: { scheme: "https", host: "registry", repo: "a/b", auth: "dTpw", timeout: 5, retry_limit: 2, mirrors },
    },
    cache: { type: "blobcache", config: { work_dir: "/cache", disable_indexed_map: false } },
  },
  mode: "direct",
  digest_validate: false,
  iostats_files: true,
  enable_xattr: true,
  amplify_io: 1048576,
  fs_prefetch: { enable: true, threads_count: 4, merging_size: 131072, bandwidth_rate: 0, prefetch_all: true },
};
const version2 = {
  version: 2,
  id: "image",
  backend: { type: "localfs", localfs: { dir: "/blobs", alt_dirs: ["/other"] } },
  cache: {
    type: "filecache",
    compressed: false,
    filecache: { work_dir: "/cache" },
    prefetch: { enable: true, threads: 4, batch_size: 1048576 },
  },
  rafs: { mode: "direct", batch_size: 1048576, validate: false, enable_xattr: true, prefetch: { enable: true, threads: 4 } },
};
const toml2 = `version = 2\n[backend]\ntype = "localfs"\n[backend.localfs]\ndir = "/blobs"\n[cache]\ntype = "filecache"\n[cache.filecache]\nwork_dir = "/c"\n[rafs]\nmode = "direct"\n`;
const hostsToml = `server = "https://registry"\n[host."http://127.0.0.1:5000"]\n  capabilities = ["pull", "resolve"]\n  skip_verify = true\n  ca = ["/ca.pem"]\n  [host."http://127.0.0.1:5000".header]\n    x-a = ["b", "c"]\n`;

function readNydusd(bytes: Uint8Array): void {
  const { config } = parseConfig(text(bytes), "fuzz");
  // What was accepted can be written and is accepted again.
  const again = parseConfig(JSON.stringify(exportConfig(config)), "again").config;
  deepStrictEqual(exportConfig(again), exportConfig(config));
}

/** Takes what another has parsed. */
function readMirrors(bytes: Uint8Array): void {
  let value: unknown;
  try {
    value = JSON.parse(text(bytes));
  } catch {
    return;
  }
  parseMirrors(value, { file: "fuzz", key: "mirrors" });
}

const json = (name: string, value: unknown, read: (bytes: Uint8Array) => void) => ({
  name,
  bytes: Buffer.from(typeof value === "string" ? value : JSON.stringify(value, undefined, 1)),
  read,
  mutate: mutateJson,
});

export const target: Target = {
  name: "configurations",
  seeds: () => [
    json("version 1", version1, readNydusd),
    json("version 2", version2, readNydusd),
    json("nydusd-config.json", readFileSync(join(misc, "nydusd-config.json"), "utf8"), readNydusd),
    { name: "TOML", bytes: Buffer.from(toml2), read: readNydusd },
    { name: "hosts.toml", bytes: Buffer.from(hostsToml), read: (bytes) => void parseHostsFile(text(bytes), "hosts.toml", "registry") },
    json("mirrors", mirrors, readMirrors),
    { name: "prefetch list", bytes: Buffer.from("/a\n/b/c\n\n  /d e \n"), read: (bytes) => void parsePrefetchPatterns(text(bytes)) },
  ],
  accepts: (error) => error instanceof NydusdError || error instanceof MirrorConfigError || error instanceof BuilderError,
};
