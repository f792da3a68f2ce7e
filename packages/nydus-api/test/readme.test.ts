import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";

test("the README's example runs as it stands", async () => {
  const readme = await readFile(new URL("../README.md", import.meta.url), "utf8");
  const code = /```ts\n([\s\S]*?)```/.exec(readme)?.[1] ?? "";
  const directory = await mkdtemp(join(tmpdir(), "nydus-api-readme-"));
  const socketPath = join(directory, "api.sock");
  const server = createServer((request, response) => {
    if (request.method === "GET") response.end('{"version":{"package_ver":"v0"},"state":"RUNNING","backend_collection":{}}');
    else response.writeHead(500).end('{"code":"MOUNT_SOURCE","message":"no such image"}');
  });
  try {
    const { promise, resolve } = Promise.withResolvers<void>();
    server.listen(socketPath, resolve);
    await promise;
    const file = join(directory, "example.ts");
    const source = new URL("../src/index.ts", import.meta.url).pathname;
    await writeFile(file, code.replace('"@nydus-ts/nydus-api"', JSON.stringify(source)).replace("/run/nydusd/api.sock", socketPath));
    const lines: string[] = [];
    const original = console.log;
    console.log = (...words: unknown[]) => void lines.push(words.join(" "));
    try {
      await import(/* @vite-ignore */ file);
    } finally {
      console.log = original;
    }
    expect(lines).toEqual(["RUNNING", "500 no such image"]);
  } finally {
    server.close();
    await rm(directory, { recursive: true, force: true });
  }
});
