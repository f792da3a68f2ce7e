import { once } from "node:events";
import { readFileSync } from "node:fs";
import { type AddressInfo, connect, createServer } from "node:net";
import { expect, test } from "vitest";
import { limitReceiveBuffer } from "../src/index.ts";

/** Bytes that the kernel holds for the reader of a local port. Source: proc_net_tcp, rx_queue. */
function heldFor(port: number): number {
  const local = port.toString(16).toUpperCase().padStart(4, "0");
  for (const line of readFileSync("/proc/self/net/tcp", "latin1").split("\n")) {
    const fields = line.trim().split(/\s+/);
    if (fields[1]?.endsWith(`:${local}`) === true) return Number.parseInt(fields[4]?.split(":")[1] ?? "", 16);
  }
  throw new Error(`port ${port} has no connection`);
}

test("a connection with a limited buffer takes little while its reader rests, however fast it read before", async () => {
  const server = createServer((socket) => {
    socket.on("error", () => undefined);
    socket.write(Buffer.alloc(64 * 1024 * 1024));
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  const reader = connect((server.address() as AddressInfo).port, "127.0.0.1");
  try {
    await once(reader, "connect");
    limitReceiveBuffer(reader, 64 * 1024);
    let read = 0;
    await new Promise<void>((resolve) => {
      reader.on("data", (piece: Buffer) => {
        read += piece.length;
        if (read < 16 * 1024 * 1024) return;
        reader.pause();
        resolve();
      });
    });
    // Full when no more has come for a while; the sender has plenty left.
    let held = -1;
    while (held !== heldFor(reader.localPort as number)) {
      held = heldFor(reader.localPort as number);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    expect(held).toBeLessThanOrEqual(256 * 1024);
  } finally {
    reader.destroy();
    server.close();
  }
});

test("a connection that is closed already is left alone", async () => {
  const server = createServer((socket) => socket.end()).listen(0, "127.0.0.1");
  await once(server, "listening");
  const reader = connect((server.address() as AddressInfo).port, "127.0.0.1");
  await once(reader, "connect");
  reader.destroy();
  await once(reader, "close");
  expect(() => limitReceiveBuffer(reader, 65_536)).not.toThrow();
  server.close();
});
