import { lstatSync, unlinkSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { connect } from "node:net";
import { requestBytesMax } from "@nydus-ts/nydus-api";
import { describeError, NydusdError } from "../errors.ts";
import { apiConnectionsMax } from "../limits.ts";
import type { Log } from "../log/log.ts";
import type { Answer, Route, Routes } from "./routes.ts";

/** The administration API on a Unix socket. Source: spec/nydusd.md 4. */
export class ApiServer {
  readonly #path: string;
  readonly #server: Server;
  readonly #log: Log;
  #inode = -1n;

  constructor(path: string, routes: Routes, log: Log) {
    this.#path = path;
    this.#log = log;
    this.#server = createServer((request, response) => {
      void serve(request, response, routes, log);
    });
    this.#server.maxConnections = apiConnectionsMax;
    this.#server.requestTimeout = 60_000;
  }

  /**
   * Replaces a socket file nobody listens on any more.
   * @throws NydusdError API_SOCKET when a daemon answers there, or the socket can't be made
   */
  async listen(): Promise<void> {
    if ((await socketState(this.#path)) === "alive") {
      throw new NydusdError(
        "API_SOCKET",
        `${this.#path}: another daemon answers on this API socket; choose another --apisock or stop that daemon`,
      );
    }
    try {
      // The original removes whatever is there; a mistyped path must not cost a file.
      if (!lstatSync(this.#path).isSocket())
        throw new NydusdError("API_SOCKET", `${this.#path}: is there and is no socket; check --apisock`);
      unlinkSync(this.#path);
    } catch (cause) {
      if (cause instanceof NydusdError) throw cause;
      if ((cause as NodeJS.ErrnoException).code !== "ENOENT") throw cannotListen(this.#path, cause);
    }
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#server.once("error", (cause) => reject(cannotListen(this.#path, cause)));
    this.#server.listen(this.#path, resolve);
    await promise;
    this.#server.on("error", (error) => this.#log.error(`API server: ${describeError(error)}`));
    this.#inode = lstatSync(this.#path, { bigint: true }).ino;
  }

  /** Ends running exchanges and removes the socket file, unless a successor has already put its own there. */
  async [Symbol.asyncDispose](): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    try {
      // node unlinks the path on close, whoever's socket it is by then.
      if (this.#server.listening && lstatSync(this.#path, { bigint: true }).ino !== this.#inode) return this.#abandon();
    } catch {
      // The file is gone already.
    }
    this.#server.close(() => resolve());
    this.#server.closeAllConnections();
    await promise;
  }

  #abandon(): void {
    this.#server.closeAllConnections();
    this.#server.unref();
  }
}

/** Whether somebody listens on a Unix socket: `absent` (no such file), `stale` (a file, but refused), `alive`. */
export function socketState(path: string): Promise<"absent" | "stale" | "alive"> {
  const { promise, resolve } = Promise.withResolvers<"absent" | "stale" | "alive">();
  const socket = connect(path);
  socket.setTimeout(1000, () => resolve("alive"));
  socket.once("connect", () => resolve("alive"));
  socket.once("error", (error: NodeJS.ErrnoException) => {
    // EAGAIN: the backlog is full, so somebody is there.
    resolve(error.code === "ENOENT" ? "absent" : error.code === "EAGAIN" ? "alive" : "stale");
  });
  return promise.finally(() => socket.destroy());
}

function cannotListen(path: string, cause: unknown): NydusdError {
  return new NydusdError("API_SOCKET", `${path}: the API socket can't be made (${describeError(cause)}); check that its directory exists`, {
    cause,
  });
}

async function serve(request: IncomingMessage, response: ServerResponse, routes: Routes, log: Log): Promise<void> {
  const begin = performance.now();
  let answer: Answer;
  try {
    answer = await answerOf(request, routes);
  } catch (error) {
    answer = failure(error, log);
  }
  const path = request.url?.split("?")[0];
  log.debug(`API ${request.method} ${path} ${answer.status} ${Math.round(performance.now() - begin)} ms`);
  if (response.destroyed) return answer.after?.();
  response.setHeader("Server", "Nydus API");
  const body = answer.text ?? (answer.json === undefined ? undefined : JSON.stringify(answer.json));
  if (body === undefined) response.writeHead(answer.status).end(answer.after);
  else {
    response.setHeader("Content-Type", answer.contentType ?? "application/json");
    response.setHeader("Content-Length", Buffer.byteLength(body));
    response.writeHead(answer.status).end(body, answer.after);
  }
}

async function answerOf(request: IncomingMessage, routes: Routes): Promise<Answer> {
  // Absolute-form targets are accepted, as the original does.
  const url = new URL(request.url ?? "/", "http://localhost");
  const route = routes[url.pathname];
  const text = await readBody(request);
  if (route === undefined) throw new NydusdError("ROUTE_UNKNOWN", `no such route: ${url.pathname}`);
  const method = request.method ?? "GET";
  const handler = route[method as keyof Route];
  if (handler === undefined) {
    throw new NydusdError("REQUEST_INVALID", `${url.pathname}: ${method} is not possible here; possible: ${Object.keys(route).join(", ")}`);
  }
  if (handler.body === (text === "")) {
    throw new NydusdError(
      "REQUEST_INVALID",
      `${method} ${url.pathname}: ${handler.body ? "a JSON body is needed" : "no body is expected"}`,
    );
  }
  const call = Promise.resolve(handler.run({ query: url.searchParams, body: text === "" ? undefined : parseJson(text, url.pathname) }));
  return withDeadline(call, handler.deadlineMs, `${method} ${url.pathname}`);
}

async function readBody(request: IncomingMessage): Promise<string> {
  const parts: Buffer[] = [];
  let size = 0;
  for await (const part of request as AsyncIterable<Buffer>) {
    size += part.length;
    if (size <= requestBytesMax) parts.push(part);
  }
  if (size > requestBytesMax) throw new NydusdError("REQUEST_TOO_LARGE", `the body is larger than ${requestBytesMax} bytes`);
  return Buffer.concat(parts).toString("utf8");
}

function parseJson(text: string, path: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new NydusdError("REQUEST_INVALID", `${path}: the body is not valid JSON`);
  }
}

function withDeadline<T>(call: Promise<T>, deadlineMs: number, what: string): Promise<T> {
  const { promise, resolve, reject } = Promise.withResolvers<T>();
  const text = `${what}: not finished within ${deadlineMs} ms; it goes on in the background, look into the log`;
  const timer = setTimeout(() => reject(new NydusdError("DEADLINE", text)), deadlineMs);
  call.then(resolve, reject).finally(() => clearTimeout(timer));
  return promise;
}

function failure(error: unknown, log: Log): Answer {
  if (error instanceof NydusdError) {
    if (error.status >= 500) log.error(`API: ${describeError(error)}`);
    return { status: error.status, json: { code: error.code, message: describeError(error) } };
  }
  log.error(`API: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`);
  const code = (error as { code?: unknown }).code;
  return { status: 500, json: { code: typeof code === "string" ? code : "UNDEFINED", message: describeError(error) } };
}
