// A TCP relay that makes a registry seem further away; run as a program, since it has to live in the network namespace:
//   node delay-proxy.ts LISTEN_PORT UPSTREAM_UNIX_SOCKET ROUND_TRIP_MS
// Where the kernel has tc netem that would do; kernels of small virtual machines are built without it.
import { connect, createServer, type Socket } from "node:net";

/** Bytes under way in one direction of one connection; beyond it the sender is paused, as a full window would. 25 MB/s × 10 ms is 250 kB. */
const underWayBytesMax = 4 << 20;

const [port, upstream, roundTrip] = process.argv.slice(2) as [string, string, string];
const oneWayMs = Number(roundTrip) / 2;

createServer({ allowHalfOpen: true, noDelay: true }, (client) => {
  const server = connect({ path: upstream, allowHalfOpen: true });
  // The handshake is one round trip before the first byte may leave.
  relay(client, server, performance.now() + 2 * oneWayMs);
  relay(server, client, 0);
  client.on("error", () => server.destroy());
  server.on("error", () => client.destroy());
}).listen(Number(port), "127.0.0.1");

function relay(from: Socket, to: Socket, notBefore: number): void {
  let underWay = 0;
  from.on("data", (part: Buffer) => {
    underWay += part.length;
    if (underWay > underWayBytesMax) from.pause();
    later(() => {
      to.write(part);
      underWay -= part.length;
      if (underWay <= underWayBytesMax) from.resume();
    });
  });
  from.on("end", () => later(() => to.end()));
  from.on("close", () => later(() => to.destroySoon()));

  function later(action: () => void): void {
    setTimeout(action, Math.max(performance.now(), notBefore) + oneWayMs - performance.now());
  }
}
