import { parseArgs } from "node:util";
import { TestRegistry } from "./registry.ts";

/**
 * The test registry as a process: `node serve.ts --port N --dir DIR [--host ADDRESS] [--user NAME --password-env VARIABLE]`.
 * Prints one JSON line when it listens. `GET /counters` answers bytes and requests so far, `DELETE /counters` sets them to zero.
 */
const { values } = parseArgs({
  options: {
    port: { type: "string", default: "0" },
    host: { type: "string", default: "127.0.0.1" },
    dir: { type: "string" },
    user: { type: "string" },
    "password-env": { type: "string" },
  },
});
const password = process.env[values["password-env"] ?? ""];
const registry = await TestRegistry.start({
  port: Number(values.port),
  hostname: values.host,
  requestLogMax: 0,
  serveCounters: true,
  ...(values.dir === undefined ? {} : { directory: values.dir }),
  ...(values.user === undefined || password === undefined ? {} : { auth: { kind: "bearer", username: values.user, password } }),
});
process.stdout.write(`${JSON.stringify({ host: registry.host, port: registry.port })}\n`);
for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => registry[Symbol.asyncDispose]());
