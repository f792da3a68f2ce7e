import { main } from "./main.ts";

const terminate = new AbortController();
for (const signal of ["SIGTERM", "SIGINT"] as const) {
  process.on(signal, () => {
    if (terminate.signal.aborted) process.exit(1);
    terminate.abort();
  });
}
// A log reader that went away is no reason to end.
process.stdout.on("error", () => undefined);
process.stderr.on("error", () => undefined);

process.exit(
  await main(process.argv.slice(2), {
    env: process.env,
    program: process.argv[1] ?? "",
    writeOut: (text) => process.stdout.write(text),
    writeErr: (text) => process.stderr.write(text),
    terminate: terminate.signal,
  }),
);
