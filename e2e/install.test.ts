import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { run, Workspace } from "@nydus-ts/testkit";
import { afterAll, expect, test } from "vitest";

const repository = join(import.meta.dirname, "..");
const workspace = new Workspace("nydus-install");
afterAll(() => workspace[Symbol.asyncDispose]());

const install = (destination: string, ...args: string[]) =>
  run(join(repository, "bin/node"), [join(repository, "scripts/install-system.ts"), ...args], {
    env: { DESTDIR: destination, PREFIX: "/usr", UNITDIR: "/usr/lib/systemd/system" },
  });

test("an installed tree starts by itself, names its own paths, keeps a changed configuration, and is removed again", async () => {
  const destination = workspace.path("root");
  await install(destination);
  for (const name of ["containerd-nydus-grpc", "nydusd", "nydusctl", "nydus-image", "nydusify"]) {
    // Far from the checkout and with no Node in PATH.
    const version = await run(`${destination}/usr/bin/${name}`, ["--version"], { directory: "/", env: { PATH: "/usr/bin:/bin" } });
    expect(version.stdout, name).toMatch(/\d+\.\d+\.\d+/);
  }
  const unit = readFileSync(`${destination}/usr/lib/systemd/system/nydus-snapshotter.service`, "utf8");
  expect(unit).toContain("ExecStart=/usr/bin/containerd-nydus-grpc --config /etc/nydus/config.toml");
  expect(unit).toContain("KillMode=process");
  const config = `${destination}/etc/nydus/config.toml`;
  writeFileSync(config, "version = 1 # changed\n");
  const again = await install(destination);
  expect(readFileSync(config, "utf8")).toBe("version = 1 # changed\n");
  expect(existsSync(`${config}.new`)).toBe(true);
  expect(again.stdout).toContain("was kept");
  await install(destination, "--uninstall");
  expect(existsSync(`${destination}/usr/bin/nydusd`)).toBe(false);
  expect(existsSync(`${destination}/usr/lib/nydus-ts`)).toBe(false);
  expect(existsSync(config)).toBe(true);
});

test("the installed snapshotter starts with the shipped configuration and answers on the address it names", async () => {
  const destination = workspace.path("start");
  await install(destination);
  const moved = (text: string): string =>
    text
      .replaceAll('"/var/lib/containerd/io.containerd.snapshotter.v1.nydus"', `"${workspace.path("state")}"`)
      .replaceAll('"/run/containerd-nydus/', `"${workspace.path("run")}/`)
      .replaceAll('"/etc/nydus/', `"${destination}/etc/nydus/`);
  const config = `${destination}/etc/nydus/config.toml`;
  writeFileSync(config, moved(readFileSync(config, "utf8")));
  const logFile = workspace.path("snapshotter.log");
  const program = workspace.start({
    command: `${destination}/usr/bin/containerd-nydus-grpc`,
    args: ["--config", config, "--log-to-stdout"],
    logFile,
  });
  const socket = workspace.path("run", "containerd-nydus-grpc.sock");
  await expect.poll(() => existsSync(socket) || !program.running, { timeout: 20_000 }).toBe(true);
  expect(program.running, program.tail()).toBe(true);
  await program.stop();
  expect(await program.exited).toBe(0);
});
