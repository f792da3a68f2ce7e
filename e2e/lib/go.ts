import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { run } from "@nydus-ts/testkit";

const sources = join(import.meta.dirname, "../go");

/** Programs built once are kept here for the next run. */
const cache = process.env["NYDUS_TEST_CACHE"] ?? "/var/tmp/nydus-ts";

export type Built = { readonly path: string } | { readonly skip: string };

/** containerd's snapshotter test suite as a program; or why it can not be had here. */
export function buildSuite(): Promise<Built> {
  return buildOwn("snapshotter-suite", "suite_test.go", (target) => ["test", "-c", "-o", target, "."]);
}

/** A program that pulls an image through containerd's client without CRI, unpacking while it pulls. */
export function buildPull(): Promise<Built> {
  return buildOwn("pull", "pull/main.go", (target) => ["build", "-trimpath", "-ldflags", "-s -w", "-o", target, "./pull"]);
}

/** A program of this repository's own module; its name in the cache changes with its source. */
function buildOwn(name: string, source: string, args: (target: string) => readonly string[]): Promise<Built> {
  const key = createHash("sha256");
  for (const file of ["go.sum", source]) key.update(readFileSync(join(sources, file)));
  return build(`${name}-${key.digest("hex").slice(0, 16)}`, args, { directory: sources, env: { CGO_ENABLED: "0" } });
}

/** A folder with containerd, ctr and the runc shim of this release. */
export function buildContainerd(version: string): Promise<Built> {
  const module = "github.com/containerd/containerd/v2/cmd";
  const programs = ["containerd", "ctr", "containerd-shim-runc-v2"].map((name) => `${module}/${name}@${version}`);
  const flags = ["-trimpath", "-ldflags", "-s -w", "-tags", "no_btrfs no_devmapper no_zfs no_aufs"];
  return build(`containerd-${version}`, () => ["install", ...flags, ...programs], { folder: true, env: { CGO_ENABLED: "0" } });
}

interface BuildOptions {
  readonly directory?: string;
  /** The result is a folder of programs (GOBIN) rather than one file. */
  readonly folder?: boolean;
  readonly env?: Readonly<Record<string, string>>;
}

async function build(name: string, args: (target: string) => readonly string[], options: BuildOptions): Promise<Built> {
  const path = join(cache, name);
  if (existsSync(path)) return { path };
  // Where Go's own archive is unpacked; not every login shell has it in PATH.
  const env = { PATH: `${process.env["PATH"]}:/usr/local/go/bin`, ...options.env };
  const version = await run("go", ["version"], { env, check: false }).catch(() => undefined);
  if (version === undefined || version.code !== 0) return { skip: "Go is not installed" };
  mkdirSync(cache, { recursive: true });
  const partial = `${path}.partial-${process.pid}`;
  try {
    if (options.folder === true) mkdirSync(partial, { recursive: true });
    const result = await run("go", args(partial), {
      ...(options.directory === undefined ? {} : { directory: options.directory }),
      env: { ...env, ...(options.folder === true ? { GOBIN: partial, GOFLAGS: "" } : {}) },
      deadlineMs: 900_000,
      check: false,
    });
    if (result.code === 0) {
      renameSync(partial, path);
      return { path };
    }
    // Without a way to Go's modules nothing is wrong with us; any other failure is one of the test.
    const offline = /dial tcp|no such host|connection refused|i\/o timeout|proxyconnect|TLS handshake|requires go >=/.exec(result.stderr);
    if (offline !== null) return { skip: `Go can not fetch or build the modules: ${result.stderr.trim().split("\n").at(-1)}` };
    throw new Error(`go ${args(partial).join(" ")}\n${result.stderr}`);
  } finally {
    rmSync(partial, { recursive: true, force: true });
  }
}
