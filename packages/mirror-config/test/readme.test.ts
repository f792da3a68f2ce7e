import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test, vi } from "vitest";

const readme = await readFile(join(import.meta.dirname, "../README.md"), "utf8");

test("the README's example runs as it stands", async () => {
  const directory = await mkdtemp(join(tmpdir(), "mirror-config-readme-"));
  const log = vi.spyOn(console, "log").mockImplementation(() => undefined);
  try {
    await mkdir(join(directory, "registry.example.com"));
    await writeFile(join(directory, "registry.example.com/hosts.toml"), '[host."https://mirror.example"]\n');
    const code = /```ts\n([\s\S]*?)```/.exec(readme)?.[1] ?? "";
    const file = join(directory, "example.ts");
    const source = JSON.stringify(join(import.meta.dirname, "../src/index.ts"));
    await writeFile(file, code.replace('"@nydus-ts/mirror-config"', source).replace('"/etc/nydus/certs.d"', JSON.stringify(directory)));
    await import(/* @vite-ignore */ file);
    expect(log.mock.calls).toEqual([[["https://mirror.example/v2"]]]);
  } finally {
    log.mockRestore();
    await rm(directory, { recursive: true });
  }
});

test("every error code stands in the README", async () => {
  const source = await readFile(join(import.meta.dirname, "../src/errors.ts"), "utf8");
  for (const [, code] of source.matchAll(/"(MIRROR_[A-Z_]+)"/g)) expect(readme).toContain(`\`${code}\``);
});
