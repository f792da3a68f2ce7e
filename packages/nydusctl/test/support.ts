import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type Server } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { main } from "../src/main.ts";

/** A daemon that answers what it is told and remembers what it was asked. */
export class CannedDaemon implements AsyncDisposable {
  readonly directory: string;
  readonly socketPath: string;
  readonly requests: string[] = [];
  /** Answers by `METHOD path`: a status, or a body for 200. */
  readonly answers = new Map<string, number | unknown>();
  readonly #server: Server;

  private constructor(directory: string) {
    this.directory = directory;
    this.socketPath = join(directory, "api.sock");
    this.#server = createServer(async (request, response) => {
      const parts: Buffer[] = [];
      for await (const part of request) parts.push(part as Buffer);
      this.requests.push(`${request.method} ${request.url} ${Buffer.concat(parts)}`.trim());
      const answer = this.answers.get(`${request.method} ${request.url?.split("?")[0]}`) ?? 404;
      if (typeof answer !== "number") response.end(JSON.stringify(answer));
      else if (answer < 400) response.writeHead(answer).end();
      else response.writeHead(answer).end(JSON.stringify({ code: "UNDEFINED", message: `refused with ${answer}` }));
    });
  }

  static async start(): Promise<CannedDaemon> {
    const daemon = new CannedDaemon(await mkdtemp(join(tmpdir(), "nydusctl-")));
    const { promise, resolve } = Promise.withResolvers<void>();
    daemon.#server.listen(daemon.socketPath, resolve);
    await promise;
    return daemon;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    this.#server.close();
    await rm(this.directory, { recursive: true, force: true });
  }
}

export interface Outcome {
  readonly exitCode: number;
  readonly out: string;
  readonly err: string;
}

export async function nydusctl(...argv: string[]): Promise<Outcome> {
  let out = "";
  let err = "";
  const exitCode = await main(argv, {
    writeOut: (text) => {
      out += text;
    },
    writeErr: (text) => {
      err += text;
    },
    isTerminal: false,
    terminate: new AbortController().signal,
  });
  return { exitCode, out, err };
}
