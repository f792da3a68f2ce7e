import { execFileSync } from "node:child_process";
import { chmodSync, cpSync, existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { build, type Plugin } from "esbuild";
import { leanPlugins } from "./lean.ts";
import { repositoryRoot } from "./libraries.ts";

/** Executable and the package whose src/bin.ts it is. */
export const executables = {
  "containerd-nydus-grpc": "snapshotter",
  nydusd: "nydusd",
  nydusctl: "nydusctl",
  "nydus-image": "nydus-image",
} as const;

/** Further programs of a bundle, which is told the name as its first argument. */
const otherNames = { nydusify: "nydus-image" } as const satisfies Record<string, keyof typeof executables>;

/**
 * A builder's memory and processors are for what it works on: V8 else lets 32 MiB of young objects gather, and has four threads of its own
 * beside those that compress.
 */
const nodeOptions: Readonly<Record<string, string>> = { "nydus-image": " --max-semi-space-size=4 --v8-pool-size=1" };

/** Every name that a launcher is written for. */
export const programs: readonly string[] = [...Object.keys(executables), ...Object.keys(otherNames)];

/**
 * Packages that look for a compiled module: the one of this machine is beside the bundle, in dist/node_modules, and all that they do else
 * is hand its functions on. Their search took 10 ms of every start, and of that of every thread.
 */
const compiledModules: Readonly<Record<string, (architecture: string) => string>> = {
  "@napi-rs/blake-hash": (architecture) => `@napi-rs/blake-hash-linux-${architecture}-gnu`,
  "@node-rs/crc32": (architecture) => `@node-rs/crc32-linux-${architecture}-gnu`,
  "lz4-napi": (architecture) => `@antoniomuso/lz4-napi-linux-${architecture}-gnu`,
};

/** Packages of which a program takes a file, by its path, for a library in it. */
const librariesByPath = (architecture: string): readonly string[] => [`@lmdb/lmdb-linux-${architecture}`];

/** Likewise, but the package has code of its own and is there too; everything else is in the bundle. */
const nativePackages: Readonly<Record<string, (architecture: string) => string>> = {
  koffi: (architecture) => `@koromix/koffi-linux-${architecture}`,
};

/** Bundles every executable into dist and writes its launcher into bin. What was there stays until all of it is replaced at once. */
export async function buildBundles(): Promise<void> {
  const finished = join(repositoryRoot, "dist");
  const out = `${finished}.partial`;
  rmSync(out, { recursive: true, force: true });
  mkdirSync(out, { recursive: true });
  const used = new Set<string>();
  const bundles = [
    ...Object.entries(executables).map(([executable, name]) => [executable, entryOf(name)] as const),
    // Worker threads have their own: nydusd starts four, a build one a core, and they need a tenth of it.
    ["fuse-worker", join(repositoryRoot, "packages/nydusd/src/fuse-worker.ts")] as const,
    ["pack-worker", join(repositoryRoot, "packages/builder/src/pack-worker.ts")] as const,
    ["index-worker", join(repositoryRoot, "packages/builder/src/zran/index-worker.ts")] as const,
  ];
  for (const [bundle, entryPoint] of bundles) {
    await build({
      entryPoints: { [bundle]: entryPoint },
      outdir: out,
      outExtension: { ".js": ".mjs" },
      // The verbs of nydus-image are loaded when they are asked for, from files of their own.
      splitting: bundle === "nydus-image",
      chunkNames: `${bundle}-[hash]`,
      bundle: true,
      platform: "node",
      format: "esm",
      target: "node26",
      conditions: ["@nydus-ts/source"],
      minifySyntax: true,
      minifyWhitespace: true,
      keepNames: true,
      sourcemap: false,
      legalComments: "none",
      logLevel: "warning",
      define: { __NYDUS_BUILD__: JSON.stringify(buildInfo()) },
      // CommonJS packages inside an ES module still call require.
      banner: {
        js: 'import { createRequire as nydusCreateRequire } from "node:module"; const require = nydusCreateRequire(import.meta.url);',
      },
      plugins: [keepNativeOutside(used), ...leanPlugins],
    });
  }
  for (const name of [...used, ...librariesByPath(process.arch)]) copyNative(name, join(out, "node_modules"));
  rmSync(finished, { recursive: true, force: true });
  renameSync(out, finished);
  for (const program of programs) writeLauncher(program);
}

/** `used` gets the names of the packages that have to be beside the bundle. */
function keepNativeOutside(used: Set<string>): Plugin {
  return {
    name: "native packages stay outside",
    setup(context) {
      const outside = (path: string): { path: string; external: true } => {
        used.add(path);
        return { path, external: true };
      };
      context.onResolve({ filter: /^[^./]/ }, ({ path }) => {
        const binary = nativePackages[path]?.(process.arch);
        if (binary !== undefined) {
          used.add(binary);
          return outside(path);
        }
        return path in compiledModules ? { path, namespace: "compiled" } : undefined;
      });
      context.onLoad({ filter: /.*/, namespace: "compiled" }, ({ path }) => ({
        contents: `module.exports = require(${JSON.stringify(compiledModules[path]?.(process.arch))});`,
      }));
      context.onResolve({ filter: /.*/, namespace: "compiled" }, ({ path }) => outside(path));
    },
  };
}

function copyNative(name: string, target: string): void {
  const source = join(repositoryRoot, "node_modules");
  if (!existsSync(join(source, name))) throw new Error(`${name} is not installed; run: npm ci`);
  // Headers, documentation and the binaries for another libc are of no use at run time.
  const wanted = (path: string): boolean =>
    !/\/(vendor|doc|musl_[a-z0-9]+|node\.abi\d+.*|.*\.musl\.node)(\/|$)/.test(path.slice(source.length));
  cpSync(join(source, name), join(target, name), { recursive: true, filter: wanted, dereference: true });
}

const entryOf = (name: string): string => join(repositoryRoot, "packages", name, "src/bin.ts");

/** The launcher brings its Node: the repository's npm package in a checkout, the copy beside the bundle after installation. */
export function launcherText(program: string, node: string, bundleDirectory: string): string {
  const other = Object.entries(otherNames).find(([name]) => name === program);
  const [executable, name] = other === undefined ? [program, ""] : [other[1], ` ${program}`];
  return `#!/bin/sh
# Written by the build. Starts ${program} with the Node that belongs to it.
self=$0
[ -L "$self" ] && self=$(readlink -f -- "$self")
here=\${self%/*}
: "\${NODE_COMPILE_CACHE=$here/${bundleDirectory}/.compile-cache}"
export NODE_COMPILE_CACHE
exec "$here/${node}" --disable-warning=ExperimentalWarning${nodeOptions[executable] ?? ""} "$here/${bundleDirectory}/${executable}.mjs"${name} "$@"
`;
}

function writeLauncher(program: string): void {
  const file = join(repositoryRoot, "bin", program);
  writeFileSync(file, launcherText(program, `../node_modules/node-linux-${process.arch}/bin/node`, "../dist"));
  chmodSync(file, 0o755);
}

/** What `--version` of every executable prints: the root package's version, the commit and its time, so that one commit gives the same bytes. */
function buildInfo(): { readonly version: string; readonly commit: string; readonly time: string } {
  const { version } = JSON.parse(readFileSync(join(repositoryRoot, "package.json"), "utf8")) as { version: string };
  const git = (...args: string[]): string => {
    try {
      return execFileSync("git", args, { cwd: repositoryRoot, encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }).trim();
    } catch {
      return "unknown"; // an unpacked archive is no checkout
    }
  };
  return { version, commit: git("rev-parse", "HEAD"), time: git("show", "-s", "--format=%cI", "HEAD") };
}
