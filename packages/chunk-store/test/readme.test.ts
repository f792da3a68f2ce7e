import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { goldenAbsent, goldenCases } from "@nydus-ts/testkit";
import { expect, test, vi } from "vitest";

const readme = await readFile(join(import.meta.dirname, "../README.md"), "utf8");
const golden = goldenCases().find(({ name }) => name === "small-v6-zstd-blake3");

test.skipIf(golden === undefined)(`the README's example runs as it stands${golden === undefined ? ` (${goldenAbsent})` : ""}`, async () => {
  const directory = await mkdtemp(join(tmpdir(), "chunk-store-readme-"));
  const log = vi.spyOn(console, "log").mockImplementation(() => undefined);
  try {
    await cp(golden!.bootstrapFile!, join(directory, "image.boot"));
    await mkdir(join(directory, "cache"));
    let code = /```ts\n([\s\S]*?)```/.exec(readme)?.[1] ?? "";
    const packages = join(import.meta.dirname, "../..");
    for (const name of ["chunk-store", "rafs-format"]) {
      code = code.replace(`"@nydus-ts/${name}"`, JSON.stringify(join(packages, name, "src/index.ts")));
    }
    for (const name of ["image.boot", "cache"]) code = code.replace(`"${name}"`, JSON.stringify(join(directory, name)));
    code = code.replace('"blobs"', JSON.stringify(golden!.blobDirectory));
    const file = join(directory, "example.ts");
    await writeFile(file, code);
    await import(/* @vite-ignore */ file);
    expect(log.mock.calls[0]?.[0]).toMatch(/^2 of \d+ chunks$/);
  } finally {
    log.mockRestore();
    await rm(directory, { recursive: true });
  }
});

test("every error code stands in the README", async () => {
  const source = await readFile(join(import.meta.dirname, "../src/errors.ts"), "utf8");
  for (const [, code] of source.matchAll(/\| "(CHUNK_[A-Z_]+)"/g)) expect(readme).toContain(`\`${code}\``);
});
