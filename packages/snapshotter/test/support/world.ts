import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as grpc from "@grpc/grpc-js";
import { MNT_DETACH, mountInfo, umount2 } from "@nydus-ts/linux";
import { daemonProcesses, endProcess } from "../../src/daemons/process.ts";
import type { InfoMessage } from "../../src/service/proto.ts";
import { type MethodName, type ReplyOf, type RequestOf, serviceDefinition } from "../../src/service/proto.ts";

/** A folder for one test; whatever the test leaves in it (daemons, mounts) goes with it. */
export function temporaryRoot(): AsyncDisposable & { readonly path: string } {
  const path = mkdtempSync(join(tmpdir(), "nydus-sn-"));
  return {
    path,
    async [Symbol.asyncDispose]() {
      for (const process of daemonProcesses(`${path}/`)) await endProcess(process, 2_000).catch(() => undefined);
      for (const entry of mountInfo().reverse()) if (entry.mountpoint.startsWith(`${path}/`)) umount2(entry.mountpoint, MNT_DETACH);
      rmSync(path, { recursive: true, force: true });
    },
  };
}

/** The command of the tiny daemon, as one executable file. */
export function tinyNydusd(root: string, orders: object = {}): { command: string; order(orders: object): void } {
  const ordersFile = join(root, "orders.json");
  const command = join(root, "tiny-nydusd");
  const program = join(import.meta.dirname, "tiny-nydusd.ts");
  writeFileSync(ordersFile, JSON.stringify(orders));
  writeFileSync(
    command,
    `#!/bin/sh\nTINY_NYDUSD_ORDERS=${ordersFile} exec ${process.execPath} --conditions=@nydus-ts/source ${program} "$@"\n`,
  );
  chmodSync(command, 0o755);
  return { command, order: (next) => writeFileSync(ordersFile, JSON.stringify(next)) };
}

export class CallError extends Error {
  readonly code: grpc.status;
  constructor(error: grpc.ServiceError) {
    super(error.details);
    this.code = error.code;
  }
}

/** A client of the snapshots service as containerd is one. */
export class TestClient {
  readonly #client: grpc.Client & Record<string, (...args: unknown[]) => unknown>;

  constructor(socket: string, options: grpc.ClientOptions = {}) {
    const Client = grpc.makeGenericClientConstructor(serviceDefinition as unknown as grpc.ServiceDefinition, "Snapshots");
    this.#client = new Client(`unix:${socket}`, grpc.credentials.createInsecure(), options) as never;
  }

  call<M extends Exclude<MethodName, "List">>(method: M, request: Partial<RequestOf<M>>): Promise<ReplyOf<M>> {
    return new Promise((resolve, reject) => {
      this.#client[method](request, (error: grpc.ServiceError | null, reply: ReplyOf<M>) =>
        error === null ? resolve(reply) : reject(new CallError(error)),
      );
    });
  }

  /** All messages of one List. */
  async list(filters: readonly string[] = []): Promise<InfoMessage[][]> {
    const stream = this.#client["List"]({ filters }) as AsyncIterable<ReplyOf<"List">>;
    const messages: InfoMessage[][] = [];
    try {
      for await (const { info } of stream) messages.push([...info]);
    } catch (error) {
      throw new CallError(error as grpc.ServiceError);
    }
    return messages;
  }

  async names(filters: readonly string[] = []): Promise<string[]> {
    return (await this.list(filters))
      .flat()
      .map((info) => info.name)
      .sort();
  }

  close(): void {
    this.#client.close();
  }
}

/** Waits until `look` answers something; for what happens in the background. */
export async function until<T>(
  look: () => T | undefined | false | Promise<T | undefined | false>,
  what: string,
  deadlineMs = 10_000,
): Promise<T> {
  const end = performance.now() + deadlineMs;
  for (;;) {
    const seen = await look();
    if (seen !== undefined && seen !== false) return seen;
    if (performance.now() > end) throw new Error(`not within ${deadlineMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

export function makeDirectories(...paths: string[]): void {
  for (const path of paths) mkdirSync(path, { recursive: true });
}

export const readText = (path: string): string => readFileSync(path, "utf8");
