import { randomBytes } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished } from "vitest";
import type { Credential } from "../src/index.ts";
import { RegistryClient, type RegistryClientOptions, staticCredentials } from "../src/index.ts";
import { TestRegistry, type TestRegistryOptions } from "../src/testing/index.ts";

/** A registry that ends with the test. */
export async function registry(options: TestRegistryOptions = {}): Promise<TestRegistry> {
  const started = await TestRegistry.start(options);
  onTestFinished(() => started[Symbol.asyncDispose]());
  return started;
}

export function client(options: RegistryClientOptions): RegistryClient {
  const made = new RegistryClient(options);
  onTestFinished(() => made[Symbol.asyncDispose]());
  return made;
}

export async function folder(): Promise<string> {
  const made = await mkdtemp(join(tmpdir(), "registry-client-"));
  onTestFinished(() => rm(made, { recursive: true, force: true }));
  return made;
}

/** A port of this machine where nothing listens. */
export async function deadPort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}

export const USER: Credential = { kind: "basic", username: "alice", password: "s3cret:with:colons" };
export const BEARER = { kind: "bearer", username: "alice", password: "s3cret:with:colons" } as const;
export const credentials = staticCredentials(USER, { source: "the test" });
export const CALL = { deadlineMs: 10_000 };

export const code = (expected: string) => expect.objectContaining({ code: expected });

export function bytes(count: number): Buffer {
  return randomBytes(count);
}

export async function collect(stream: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for await (const part of stream) parts.push(part);
  return Buffer.concat(parts);
}

export async function* pieces(whole: Uint8Array, size: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < whole.length; at += size) yield whole.subarray(at, at + size);
}
