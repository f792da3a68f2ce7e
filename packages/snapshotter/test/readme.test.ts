import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { LOCALFS_TEMPLATE } from "./support/stack.ts";
import { temporaryRoot } from "./support/world.ts";

// The formatter pads the cells of tables.
const readme = readFileSync(join(import.meta.dirname, "../README.md"), "utf8").replaceAll(/ +\|/g, " |");

test("the example of the README runs as it stands", async () => {
  await using root = temporaryRoot();
  const code = /```ts\n([\s\S]*?)```/.exec(readme)?.[1] as string;
  // Beside the tests, so that the package is found by its name.
  const file = join(root.path, "example.ts");
  writeFileSync(file, code.replace("@nydus-ts/snapshotter", join(import.meta.dirname, "../src/index.ts")));
  writeFileSync(join(root.path, "t.json"), JSON.stringify(LOCALFS_TEMPLATE));
  const config = `version = 1\nroot = "${root.path}/r"\naddress = "${root.path}/s.sock"\n[daemon]\nnydusd_config = "${root.path}/t.json"\n`;
  writeFileSync(join(root.path, "config.toml"), config);
  const out = execFileSync(process.execPath, ["--conditions=@nydus-ts/source", "--disable-warning=ExperimentalWarning", file], {
    cwd: root.path,
    encoding: "utf8",
  });
  expect(out).toContain("nydus-snapshotter is ready");
  expect(out).toContain("exit code 0");
});

test("every error code stands in the README", () => {
  const codes = readFileSync(join(import.meta.dirname, "../src/errors.ts"), "utf8").matchAll(/\| "([A-Z_]+)"/g);
  for (const [, code] of codes) expect(readme, `write down when ${code} happens`).toContain(`\`${code}\``);
});

test("the limits in the README are those of the code", () => {
  const limits = readFileSync(join(import.meta.dirname, "../src/limits.ts"), "utf8");
  const value = (name: string) =>
    Number(
      new RegExp(`export const ${name} = ([\\d_ *]+);`)
        .exec(limits)?.[1]
        .split("*")
        .reduce((product, part) => product * Number(part.replaceAll("_", "")), 1),
    );
  expect(readme).toContain(`| \`root\` | ${value("rootBytesMax")} bytes |`);
  expect(readme).toContain(`| gRPC request | ${value("requestBytesMax") / 2 ** 20} MiB |`);
  expect(readme).toContain(`| start of a daemon | ${value("daemonStartDeadlineMs") / 1000} s |`);
  expect(readme).toContain(`| mount of an image | ${value("mountDeadlineMs") / 1000} s |`);
  expect(readme).toContain(`| state of a daemon | ${value("supervisorStateBytesMax") / 2 ** 20} MiB |`);
  expect(readme).toContain(`| unused daemon | ${value("idleDaemonMs") / 1000} s |`);
});
