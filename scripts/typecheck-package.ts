// Checks the types of one package: bin/node scripts/typecheck-package.ts linux
import { typecheckPackage } from "./build/libraries.ts";

const [name] = process.argv.slice(2);
if (name === undefined) throw new TypeError("usage: scripts/typecheck-package.ts PACKAGE");
typecheckPackage(name);
