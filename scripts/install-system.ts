// npm run install-system: puts the executables, their Node, configuration and a systemd unit in place; starts and enables nothing.
//   PREFIX=/usr/local  SYSCONFDIR=/etc  UNITDIR=/etc/systemd/system  DESTDIR=  bin/node scripts/install-system.ts [--uninstall]
// A configuration file that is there and differs is kept; ours is put beside it as NAME.new.
import { spawnSync } from "node:child_process";
import {
  chmodSync,
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { basename, join } from "node:path";
import { parseArgs } from "node:util";
import { buildBundles, executables, launcherText, programs } from "./build/bundles.ts";
import { repositoryRoot } from "./build/libraries.ts";

const { values } = parseArgs({ options: { uninstall: { type: "boolean", default: false } } });
const environment = (name: string, otherwise: string): string => process.env[name] || otherwise;

const destination = environment("DESTDIR", "");
const prefix = environment("PREFIX", "/usr/local");
const programFolder = `${destination}${prefix}/bin`;
const library = `${destination}${prefix}/lib/nydus-ts`;
const configuration = `${destination}${environment("SYSCONFDIR", "/etc")}/nydus`;
const units = `${destination}${environment("UNITDIR", "/etc/systemd/system")}`;
const shipped = join(repositoryRoot, "misc/snapshotter");

try {
  if (values.uninstall) uninstall();
  else await install();
} catch (error) {
  const { code, path } = error as NodeJS.ErrnoException;
  if (code !== "EACCES" && code !== "EPERM" && code !== "EROFS") throw error;
  process.stderr.write(`${path}: ${code}: run as root, or set PREFIX, SYSCONFDIR and UNITDIR (or DESTDIR) to folders you may write\n`);
  process.exitCode = 1;
}

async function install(): Promise<void> {
  const bundles = join(repositoryRoot, "dist");
  const built = Object.keys(executables).every((name) => existsSync(join(bundles, `${name}.mjs`)));
  if (!built) await buildBundles();

  // Replaced as a whole: a file of an older version must not stay. Running daemons keep the files they have opened.
  rmSync(library, { recursive: true, force: true });
  mkdirSync(library, { recursive: true });
  for (const name of readdirSync(bundles)) if (!name.startsWith(".")) cpSync(join(bundles, name), join(library, name), { recursive: true });
  cpSync(join(repositoryRoot, `node_modules/node-linux-${process.arch}/bin/node`), join(library, "node"), { dereference: true });
  chmodSync(join(library, "node"), 0o755);
  say(library);

  mkdirSync(programFolder, { recursive: true });
  for (const name of programs) {
    const file = join(programFolder, name);
    rmSync(file, { force: true });
    writeFileSync(file, launcherText(name, "../lib/nydus-ts/node", "../lib/nydus-ts"));
    chmodSync(file, 0o755);
    say(file);
  }
  installConfiguration();
  installUnits();
}

function installConfiguration(): void {
  mkdirSync(join(configuration, "certs.d"), { recursive: true });
  for (const name of shippedFiles(/\.(toml|json)$/)) {
    const target = join(configuration, name);
    const content = readFileSync(join(shipped, name), "utf8").replaceAll("/usr/local/bin/", `${prefix}/bin/`);
    const present = existsSync(target) ? readFileSync(target, "utf8") : undefined;
    const file = present === undefined || present === content ? target : `${target}.new`;
    writeFileSync(file, content);
    say(file === target ? file : `${file} (${target} is yours and was kept)`);
  }
  const link = join(configuration, "nydusd-config.json");
  if (existsSync(join(configuration, "nydusd-config.fusedev.json")) && !isThere(link)) {
    symlinkSync("nydusd-config.fusedev.json", link);
    say(`${link} -> nydusd-config.fusedev.json`);
  }
}

function installUnits(): void {
  mkdirSync(units, { recursive: true });
  const names = shippedFiles(/\.service$/);
  for (const name of names) {
    const text = readFileSync(join(shipped, name), "utf8");
    writeFileSync(join(units, name), text.replaceAll("/usr/local/bin/", `${prefix}/bin/`));
    say(join(units, name));
  }
  if (destination === "" && existsSync("/run/systemd/system")) spawnSync("systemctl", ["daemon-reload"], { stdio: "inherit" });
  for (const name of names) process.stdout.write(`start it with: systemctl enable --now ${basename(name, ".service")}\n`);
}

function uninstall(): void {
  const files = [
    ...programs.map((name) => join(programFolder, name)),
    ...shippedFiles(/\.service$/).map((name) => join(units, name)),
    library,
  ];
  for (const file of files.filter(isThere)) {
    rmSync(file, { recursive: true, force: true });
    process.stdout.write(`removed ${file}\n`);
  }
  if (existsSync(configuration)) process.stdout.write(`kept ${configuration}\n`);
}

function shippedFiles(pattern: RegExp): string[] {
  return existsSync(shipped) ? readdirSync(shipped).filter((name) => pattern.test(name)) : [];
}

function isThere(file: string): boolean {
  return lstatSync(file, { throwIfNoEntry: false }) !== undefined;
}

function say(what: string): void {
  process.stdout.write(`installed ${what}\n`);
}
