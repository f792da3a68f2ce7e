// npm run build: libraries to packages/*/dist (JavaScript and types), executables to dist/*.mjs (one bundle each) with launchers in bin/.
//   bin/node scripts/build.ts                   everything
//   bin/node scripts/build.ts --bundles         only the executables (seconds; what end-to-end tests need)
//   bin/node scripts/build.ts --package linux   only one library, its dependencies having been built
import { parseArgs } from "node:util";
import { buildBundles } from "./build/bundles.ts";
import { buildLibrary, librariesInOrder } from "./build/libraries.ts";

const { values } = parseArgs({ options: { bundles: { type: "boolean", default: false }, package: { type: "string" } } });

if (values.package !== undefined) {
  buildLibrary(values.package);
} else {
  if (!values.bundles) for (const name of librariesInOrder()) buildLibrary(name);
  await buildBundles().catch(() => {
    process.exitCode = 1; // esbuild has said what is wrong
  });
}
