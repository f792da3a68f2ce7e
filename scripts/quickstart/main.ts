import { parseArgs } from "node:util";
import { sweep } from "@nydus-ts/testkit";
import { claimDirectory, quickstartDirectory, release } from "./claim.ts";
import { demonstrate } from "./demonstrate.ts";

const usage = `usage: ./quickstart [IMAGE] [--keep] [-- COMMAND ...]
       ./quickstart --stop

Shows a container start while its image is still in the registry: converts IMAGE, pushes it to a local registry, pulls it through
containerd-nydus-grpc, runs COMMAND in it and compares with plain overlayfs. Needs root. Nothing of this machine's own containerd is touched.

IMAGE      a reference in a registry, or an OCI layout folder; without one, a Debian root with Python made from Debian packages
COMMAND    default: python3 -c 'print("hello")' without IMAGE, else what IMAGE says
--keep     leave everything running, and say how to look at it
--stop     stop what --keep left
`;

const { values, positionals, command } = readArguments();

if (values.help) {
  process.stdout.write(usage);
} else if (values.stop) {
  sweep(quickstartDirectory);
  process.stdout.write(`stopped; ${quickstartDirectory} is removed\n`);
} else {
  claimDirectory();
  let interrupted = false;
  const workspace = demonstrate({ image: positionals[0], keep: values.keep, command });
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(signal, () => {
      if (interrupted) return;
      interrupted = true;
      process.stderr.write(`\n${signal}: cleaning up\n`);
      void workspace.dispose().finally(() => process.exit(130));
    });
  }
  try {
    await workspace.finished;
    if (!values.keep) process.stderr.write("cleaned up: no mount, process or file of it is left\n");
  } catch (error) {
    // After an interruption every step in progress fails; that is no news.
    if (!interrupted) {
      process.stderr.write(`\nquickstart failed: ${error instanceof Error ? error.message : String(error)}\n`);
      process.exitCode = 1;
    }
  } finally {
    release();
  }
  // With --keep, programs that this process started go on without it.
  process.exit();
}

function readArguments(): { values: { keep: boolean; stop: boolean; help: boolean }; positionals: string[]; command: string[] } {
  const args = process.argv.slice(2);
  const separator = args.indexOf("--");
  const command = separator < 0 ? [] : args.slice(separator + 1);
  try {
    const parsed = parseArgs({
      args: separator < 0 ? args : args.slice(0, separator),
      allowPositionals: true,
      options: {
        keep: { type: "boolean", default: false },
        stop: { type: "boolean", default: false },
        help: { type: "boolean", short: "h", default: false },
      },
    });
    if (parsed.positionals.length > 1) throw new Error(`one IMAGE, not ${parsed.positionals.length}`);
    return { ...parsed, command };
  } catch (error) {
    process.stderr.write(`quickstart: ${(error as Error).message}\n\n${usage}`);
    process.exit(2);
  }
}
