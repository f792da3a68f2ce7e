import { spawn } from "node:child_process";
import { RegistryError } from "../errors.ts";
import { HELPER_DEADLINE_MS, HELPER_OUTPUT_BYTES_MAX } from "../limits.ts";
import type { Credential } from "./credentials.ts";

/**
 * Asks `docker-credential-<name> get`. The server goes in by stdin and the secret comes out by stdout; neither argv nor an error holds it.
 *
 * @returns undefined if the helper has nothing for this server
 * @throws RegistryError REGISTRY_CREDENTIALS: not installed, failed, said nonsense, or took longer than HELPER_DEADLINE_MS
 */
export async function askHelper(
  name: string,
  server: string,
  options: { signal: AbortSignal; deadlineMs?: number; path?: string },
): Promise<Credential | undefined> {
  const program = `docker-credential-${name}`;
  if (!/^[A-Za-z0-9._-]+$/.test(name))
    throw new RegistryError("REGISTRY_CREDENTIALS", `${JSON.stringify(name.slice(0, 60))} is no name of a credential helper`);
  const { code, stdout } = await run(program, server, options);
  const text = stdout.toString("utf8").trim();
  if (code !== 0) {
    // Helpers say so on stdout; their own words may quote what they were given, so only this one is looked for.
    if (/credentials not found/i.test(text)) return undefined;
    throw new RegistryError("REGISTRY_CREDENTIALS", `${program} failed with exit code ${code} for ${server}`, {
      hint: `run it by hand: echo ${server} | ${program} get`,
    });
  }
  let answer: { Username?: unknown; Secret?: unknown };
  try {
    answer = JSON.parse(text) as typeof answer;
  } catch {
    throw new RegistryError("REGISTRY_CREDENTIALS", `${program} did not answer JSON for ${server}`);
  }
  if (typeof answer.Username !== "string" || typeof answer.Secret !== "string")
    throw new RegistryError("REGISTRY_CREDENTIALS", `${program} answered no Username and Secret for ${server}`);
  if (answer.Secret === "") return undefined;
  return answer.Username === "<token>"
    ? { kind: "identity", identityToken: answer.Secret }
    : { kind: "basic", username: answer.Username, password: answer.Secret };
}

function run(
  program: string,
  input: string,
  options: { signal: AbortSignal; deadlineMs?: number; path?: string },
): Promise<{ code: number | null; stdout: Buffer }> {
  const deadlineMs = options.deadlineMs ?? HELPER_DEADLINE_MS;
  return new Promise((resolve, reject) => {
    const child = spawn(program, ["get"], {
      stdio: ["pipe", "pipe", "ignore"],
      env: { ...process.env, ...(options.path === undefined ? {} : { PATH: options.path }) },
    });
    const parts: Buffer[] = [];
    let bytes = 0;
    const fail = (what: string, hint?: string): void => {
      child.kill("SIGKILL");
      end();
      reject(new RegistryError("REGISTRY_CREDENTIALS", `${program} ${what}`, hint === undefined ? {} : { hint }));
    };
    const timer = setTimeout(() => fail(`did not answer within ${deadlineMs} ms`), deadlineMs);
    const onAbort = (): void => fail("was ended with the call that asked");
    const end = (): void => {
      clearTimeout(timer);
      options.signal.removeEventListener("abort", onAbort);
    };
    options.signal.addEventListener("abort", onAbort, { once: true });
    child.on("error", (error: NodeJS.ErrnoException) =>
      fail(`cannot be started (${error.code})`, "install it, or take it out of config.json"),
    );
    child.stdout.on("data", (part: Buffer) => {
      bytes += part.length;
      if (bytes > HELPER_OUTPUT_BYTES_MAX) fail(`said more than ${HELPER_OUTPUT_BYTES_MAX} bytes`);
      else parts.push(part);
    });
    child.on("close", (code) => {
      end();
      resolve({ code, stdout: Buffer.concat(parts) });
    });
    child.stdin.on("error", () => undefined);
    child.stdin.end(input);
  });
}
