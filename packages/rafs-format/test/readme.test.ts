import { copyFile, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";

const readme = await readFile(join(import.meta.dirname, "../README.md"), "utf8");

test("the README's example runs as it stands", async () => {
  const code = /```ts\n([\s\S]*?)```/.exec(readme)?.[1] ?? "";
  const directory = await mkdtemp(join(tmpdir(), "rafs-format-readme-"));
  try {
    const image = join(directory, "image.boot");
    await copyFile(join(import.meta.dirname, "fixtures/plain-v6.boot"), image);
    const file = join(directory, "example.ts");
    const source = JSON.stringify(join(import.meta.dirname, "../src/index.ts"));
    await writeFile(file, code.replace('"@nydus-ts/rafs-format"', source).replace('"image.boot"', JSON.stringify(image)));
    const lines: string[] = [];
    const log = console.log;
    console.log = (...words: unknown[]) => void lines.push(words.join(" "));
    try {
      await import(/* @vite-ignore */ file);
    } finally {
      console.log = log;
    }
    expect(lines).toEqual(["RAFS v6, blobs 0a775e35", "absent 19"]);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
});

test("every error code stands in the README", async () => {
  const source = await readFile(join(import.meta.dirname, "../src/errors.ts"), "utf8");
  for (const [, code] of source.matchAll(/\| "(RAFS_[A-Z_]+)"/g)) expect(readme).toContain(`\`${code}\``);
});

test("the fixtures are the bytes that their README names", async () => {
  const { createHash } = await import("node:crypto");
  const rows = await readFile(join(import.meta.dirname, "fixtures/README.md"), "utf8");
  for (const name of ["plain-v6.boot", "plain-v5.boot"]) {
    const bytes = await readFile(join(import.meta.dirname, "fixtures", name));
    expect(rows).toContain(createHash("sha256").update(bytes).digest("hex"));
  }
});
