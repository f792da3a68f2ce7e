import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test, vi } from "vitest";
import { TestRegistry } from "../src/testing/index.ts";

const readme = await readFile(join(import.meta.dirname, "../README.md"), "utf8");

test("the README's example runs as it stands", async () => {
  const directory = await mkdtemp(join(tmpdir(), "registry-client-readme-"));
  const registry = await TestRegistry.start();
  const log = vi.spyOn(console, "log").mockImplementation(() => undefined);
  try {
    const { digest } = registry.putBlob(Buffer.from("some blob"), "app");
    const code = /```ts\n([\s\S]*?)```/.exec(readme)?.[1] ?? "";
    const file = join(directory, "example.ts");
    await writeFile(
      file,
      code
        .replace('"@nydus-ts/registry-client"', JSON.stringify(join(import.meta.dirname, "../src/index.ts")))
        .replace("registry.example.com", registry.host)
        .replace("<64 hex digits>", digest.slice("sha256:".length)),
    );
    await import(/* @vite-ignore */ file);
    expect(log.mock.calls).toEqual([[4, 1]]);
  } finally {
    log.mockRestore();
    await registry[Symbol.asyncDispose]();
    await rm(directory, { recursive: true });
  }
});

test("every error code stands in the README", async () => {
  const source = await readFile(join(import.meta.dirname, "../src/errors.ts"), "utf8");
  for (const [, code] of source.matchAll(/"(REGISTRY_[A-Z_]+)"/g)) expect(readme).toContain(`\`${code}\``);
});
