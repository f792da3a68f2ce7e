import { builtinModules } from "node:module";
import { dirname, join } from "node:path";
import type { Plugin } from "esbuild";

// A daemon's start is part of a container's start: what its bundle evaluates and never uses is left out here. Together these took
// `nydusd --version` from 175 to 115 ms (Node alone: 30 ms).

/**
 * Node's own modules are had from process.getBuiltinModule instead of an import. An import of `node:http` asks for each of its exports,
 * and one is a getter that loads a whole WebSocket client (34 ms); `node:crypto` and `node:util` are alike.
 */
const builtinsWithoutGetters: Plugin = {
  name: "builtins without their getters",
  setup(context) {
    const builtins = new Set(builtinModules.map((name) => name.replace(/^node:/, "")));
    context.onResolve({ filter: /^(node:)?[a-z_/]+$/ }, ({ path }) => {
      const name = path.replace(/^node:/, "");
      return builtins.has(name) || path.startsWith("node:") ? { path: `node:${name}`, namespace: "builtin" } : undefined;
    });
    context.onLoad({ filter: /.*/, namespace: "builtin" }, ({ path }) => ({
      contents: `module.exports = process.getBuiltinModule(${JSON.stringify(path)});`,
    }));
  },
};

/** zod has the texts of its errors in 50 languages, a sixth of a bundle, and builds each at start; its default is English. */
const zodInEnglish: Plugin = {
  name: "zod in English",
  setup(context) {
    context.onResolve({ filter: /\/locales\/index\.js$/ }, ({ importer, resolveDir }) =>
      /node_modules\/zod\//.test(importer) ? { path: join(resolveDir, "../locales/en.js"), namespace: "english" } : undefined,
    );
    context.onLoad({ filter: /.*/, namespace: "english" }, ({ path }) => ({
      contents: `export { default as en } from ${JSON.stringify(path)};`,
      resolveDir: dirname(path),
    }));
  },
};

/**
 * undici is also a browser's fetch, WebSocket and cache (40 ms, and Node's own copy of it once more); registry-client uses its agents.
 * As a module with exports by name: an import of anything else fails the build, not the program.
 */
const undiciAgents: Plugin = {
  name: "undici's agents",
  setup(context) {
    context.onResolve({ filter: /^undici$/ }, ({ resolveDir }) => ({ path: resolveDir, namespace: "undici-agents" }));
    context.onLoad({ filter: /.*/, namespace: "undici-agents" }, ({ path }) => ({
      contents: `
        import api from "undici/lib/api";
        import Dispatcher from "undici/lib/dispatcher/dispatcher";
        Object.assign(Dispatcher.prototype, api);
        export { default as Agent } from "undici/lib/dispatcher/agent";
        export { default as ProxyAgent } from "undici/lib/dispatcher/proxy-agent";
        export { default as buildConnector } from "undici/lib/core/connect";`,
      resolveDir: path,
    }));
  },
};

export const leanPlugins: readonly Plugin[] = [builtinsWithoutGetters, zodInEnglish, undiciAgents];
