import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type BuildResult, build } from "esbuild";
import { afterAll, describe, expect, test } from "vitest";
import { leanPlugins } from "../build/lean.ts";

const directory = mkdtempSync(join(tmpdir(), "lean-"));
afterAll(() => rmSync(directory, { recursive: true }));

function bundle(contents: string): Promise<BuildResult<{ write: false }>> {
  return build({
    stdin: { contents, resolveDir: join(import.meta.dirname, "../../packages/registry-client/src") },
    bundle: true,
    write: false,
    platform: "node",
    format: "esm",
    logLevel: "silent",
    plugins: [...leanPlugins],
  });
}

describe("what bundles hold of undici", () => {
  test("its agents send requests", async () => {
    const { outputFiles } = await bundle(`
      import { Agent, buildConnector, ProxyAgent } from "undici";
      import { createServer } from "node:http";
      export async function ask() {
        const server = createServer((_, answer) => answer.end("answer")).listen(0, "127.0.0.1");
        await new Promise((resolve) => server.on("listening", resolve));
        const agent = new Agent({ connect: buildConnector({}) });
        const { body } = await agent.request({ origin: "http://127.0.0.1:" + server.address().port, path: "/", method: "GET" });
        const text = await body.text();
        await agent.close();
        server.close();
        return [text, typeof ProxyAgent];
      }`);
    const file = join(directory, "agents.mjs");
    writeFileSync(file, outputFiles[0]!.contents);
    const { ask } = (await import(file)) as { ask(): Promise<string[]> };
    expect(await ask()).toEqual(["answer", "function"]);
  });

  test.each(["request", "fetch", "Pool", "setGlobalDispatcher"])("an import of its %s fails the build", async (name) => {
    await expect(bundle(`import { ${name} } from "undici"; console.log(${name});`)).rejects.toThrow(/No matching export/);
  });
});
