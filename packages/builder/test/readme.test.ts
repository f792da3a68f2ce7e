import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { expect, test } from "vitest";
import { TemporaryDirectory, tar } from "./support.ts";

test("the example of the README runs as it stands", () => {
  using work = new TemporaryDirectory();
  const readme = readFileSync(join(import.meta.dirname, "../README.md"), "utf8");
  const example = /```ts\n(.*?)```/s.exec(readme)![1];
  writeFileSync(work.join("layer.tar.gz"), gzipSync(tar({ name: "a", data: "x".repeat(5000) })));
  const source = join(import.meta.dirname, "../src/index.ts");
  const program = example.replace('"@nydus-ts/builder"', JSON.stringify(source));
  writeFileSync(work.join("example.mts"), program);
  const output = execFileSync(process.execPath, ["--conditions=@nydus-ts/source", work.join("example.mts")], {
    cwd: work.path,
    encoding: "utf8",
  });
  expect(output).toBe("64 1\n0 1\n");
});
