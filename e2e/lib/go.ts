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
  const key = createHash("sha256")
    .update(readFileSync(join(sources, "go.sum")))
    .update(readFileSync(join(sources, "suite_test.go")))
    .digest("hex");
  return build(`snapshotter-suite-${key.slice(0, 16)}`, (target) => ["test", "-c", "-o", target, "."], { directory: sources });
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
  const version = await run("go", ["version"], { check: false }).catch(() => undefined);
  if (version === undefined || version.code !== 0) return { skip: "Go is not installed" };
  mkdirSync(cache, { recursive: true });
  const partial = `${path}.partial-${process.pid}`;
  try {
    if (options.folder === true) mkdirSync(partial, { recursive: true });
    const result = await run("go", args(partial), {
      ...(options.directory === undefined ? {} : { directory: options.directory }),
      env: { ...options.env, ...(options.folder === true ? { GOBIN: partial, GOFLAGS: "" } : {}) },
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
