import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

export const repositoryRoot = join(import.meta.dirname, "../..");
const packagesDirectory = join(repositoryRoot, "packages");

interface Manifest {
  readonly name: string;
  readonly dependencies?: Readonly<Record<string, string>>;
}

/** Folder names of all packages, each after those it depends on. */
export function librariesInOrder(): string[] {
  const manifests = new Map(readdirSync(packagesDirectory).map((name) => [name, readManifest(name)]));
  const byPackageName = new Map([...manifests].map(([name, manifest]) => [manifest.name, name]));
  const ordered: string[] = [];
  const visit = (name: string): void => {
    if (ordered.includes(name)) return;
    for (const dependency of Object.keys(manifests.get(name)?.dependencies ?? {})) {
      const local = byPackageName.get(dependency);
      if (local !== undefined) visit(local);
    }
    ordered.push(name);
  };
  for (const name of manifests.keys()) visit(name);
  return ordered;
}

/** Emits JavaScript and types of one package into its dist; types of the packages it imports come from their dist. */
export function buildLibrary(name: string): void {
  const directory = join(packagesDirectory, name);
  rmSync(join(directory, "dist"), { recursive: true, force: true });
  tsc({
    extends: join(repositoryRoot, "tsconfig.json"),
    compilerOptions: {
      noEmit: false,
      declaration: true,
      customConditions: [],
      types: ["node"],
      typeRoots: [join(repositoryRoot, "node_modules/@types")],
      rootDir: join(directory, "src"),
      outDir: join(directory, "dist"),
    },
    include: [join(directory, "src")],
  });
}

/** Checks one package, tests included, against the sources of the others. */
export function typecheckPackage(name: string): void {
  const directory = join(packagesDirectory, name);
  tsc({
    extends: join(repositoryRoot, "tsconfig.json"),
    compilerOptions: { types: ["node"], typeRoots: [join(repositoryRoot, "node_modules/@types")] },
    include: ["src", "test", "bench"].map((folder) => join(directory, folder)),
  });
}

/** tsc wants its configuration in a file; this one lives only while it runs. */
function tsc(config: object): void {
  const folder = mkdtempSync(join(tmpdir(), "nydus-tsc-"));
  try {
    const file = join(folder, "tsconfig.json");
    writeFileSync(file, JSON.stringify(config));
    const { status } = spawnSync(join(repositoryRoot, "bin/npx"), ["tsc", "-p", file, "--pretty", "false"], {
      cwd: repositoryRoot,
      stdio: "inherit",
    });
    if (status !== 0) process.exitCode = status ?? 1; // tsc has said what is wrong
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

const readManifest = (name: string): Manifest =>
  JSON.parse(readFileSync(join(packagesDirectory, name, "package.json"), "utf8")) as Manifest;
