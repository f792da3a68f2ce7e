import { copyFile, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";

const readme = await readFile(join(import.meta.dirname, "../README.md"), "utf8");

const examples = [...readme.matchAll(/```ts\n([\s\S]*?)```/g)].map(([, code]) => code as string);

test.each([
  ["read", 0, ["RAFS v6, blobs 0a775e35", "absent 19"]],
  ["read in pages", 1, ["19 names, at most 6 pages held", "absent"]],
  ["build", 2, ["hello"]],
] as const)("the README's example runs as it stands: %s", async (_, index, printed) => {
  const directory = await mkdtemp(join(tmpdir(), "rafs-format-readme-"));
  try {
    const image = join(directory, "image.boot");
    await copyFile(join(import.meta.dirname, "fixtures/plain-v6.boot"), image);
    const file = join(directory, "example.ts");
    const source = (path: string): string => JSON.stringify(join(import.meta.dirname, "../src", path));
    const code = (examples[index] as string)
      .replace('"@nydus-ts/rafs-format"', source("index.ts"))
      .replace('"@nydus-ts/rafs-format/writer"', source("writer/index.ts"))
      .replace('"image.boot"', JSON.stringify(image));
    await writeFile(file, code);
    const lines: string[] = [];
    const log = console.log;
    console.log = (...words: unknown[]) => void lines.push(words.join(" "));
    try {
      await import(/* @vite-ignore */ file);
    } finally {
      console.log = log;
    }
    expect(lines).toEqual(printed);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
});

test("every example of the README is run", () => expect(examples).toHaveLength(3));

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
