import { defineConfig } from "vitest/config";

const conditions = ["@nydus-ts/source", "node", "import", "module", "default"];

export default defineConfig({
  ssr: { resolve: { conditions } },
  resolve: { conditions },
  test: {
    projects: [
      {
        ssr: { resolve: { conditions } },
        resolve: { conditions },
        test: {
          name: "unit",
          include: ["packages/*/test/**/*.test.ts", "scripts/test/**/*.test.ts", "fuzz/test/**/*.test.ts"],
          pool: "forks",
          testTimeout: 30_000,
          execArgv: ["--conditions=@nydus-ts/source"],
        },
      },
      {
        ssr: { resolve: { conditions } },
        resolve: { conditions },
        test: {
          name: "e2e",
          include: ["e2e/**/*.test.ts"],
          globalSetup: ["e2e/lib/build.ts"],
          pool: "forks",
          testTimeout: 180_000,
          hookTimeout: 300_000,
          // One machine-wide set of sockets, mounts and namespaces: one file at a time.
          fileParallelism: false,
          execArgv: ["--conditions=@nydus-ts/source"],
        },
      },
    ],
  },
});
