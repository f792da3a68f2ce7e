import { once } from "node:events";
import { existsSync, renameSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import * as grpc from "@grpc/grpc-js";
import { expect, test } from "vitest";
import { listen, stopListening } from "../src/service/server.ts";
import { temporaryRoot } from "./support/world.ts";

const owner = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 };

test("a server that ends takes its own socket file with it", async () => {
  await using root = temporaryRoot();
  const path = join(root.path, "grpc.sock");
  const server = new grpc.Server();
  await stopListening(server, await listen(server, path, owner), 2_000);
  expect(existsSync(path)).toBe(false);
});

test("a server that ends leaves the socket that a successor put in the place of its own", async () => {
  await using root = temporaryRoot();
  const path = join(root.path, "grpc.sock");
  const server = new grpc.Server();
  const socket = await listen(server, path, owner);
  const successor = createServer().listen(join(root.path, "next.sock"));
  try {
    await once(successor, "listening");
    renameSync(join(root.path, "next.sock"), path);
    await stopListening(server, socket, 2_000);
    expect(existsSync(path)).toBe(true);
  } finally {
    successor.close();
  }
});
