import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { createServer, type IncomingMessage, request } from "node:http";
import { type AddressInfo, connect } from "node:net";
import { join } from "node:path";
import type { TestRegistry } from "@nydus-ts/registry-client/testing";
import { run, Workspace } from "@nydus-ts/testkit";
import { afterEach, beforeEach, expect, test } from "vitest";
import { fileBytes, fileOf, lazyImage } from "./lazy-image.ts";
import { registryConfig, startNydusd } from "./support.ts";

const repository = join(import.meta.dirname, "../../..");
const program = join(repository, "packages/nydus-image/src/bin.ts");

let workspace: Workspace;
beforeEach(() => {
  workspace = new Workspace("nydusd-transports");
});
afterEach(() => workspace[Symbol.asyncDispose]());

/** A name that no resolver knows: only the proxy leads there. */
const proxiedName = "registry.invalid";

/** How one kind of registry is set up, and how each program is told about it. */
interface Transport {
  readonly tls?: { readonly requestCert: boolean };
  readonly host?: (registry: TestRegistry) => string;
  /** nydusd's back end configuration. */
  readonly nydusd: (registry: TestRegistry) => Record<string, unknown>;
  /** The environment of the other programs. */
  readonly env?: (registry: TestRegistry) => Record<string, string>;
}

const file = (name: string): string => workspace.path("pki", name);
const hostsDir = (): string => workspace.path("certs.d");

/** A hosts.toml for the registry, as containerd reads it. */
function hostsToml(server: string, lines: readonly string[]): string {
  const directory = join(hostsDir(), new URL(server).host.replace(":", "_").concat("_"));
  mkdirSync(directory, { recursive: true });
  writeFileSync(join(directory, "hosts.toml"), [`server = "${server}"`, ...lines, ""].join("\n"));
  return hostsDir();
}

const client = (): string[] => [
  `ca = ${JSON.stringify(file("ca.pem"))}`,
  `client = [[${JSON.stringify(file("client.pem"))}, ${JSON.stringify(file("client.key"))}]]`,
];

test.each<[string, () => Promise<Transport>]>([
  ["plain HTTP", async () => ({ nydusd: () => ({}) })],
  [
    "TLS with a private CA",
    async () => ({
      tls: { requestCert: false },
      nydusd: () => ({ scheme: "https", ca_cert_files: [file("ca.pem")] }),
      env: (registry) => ({ NYDUS_HOSTS_DIRS: hostsToml(`https://${registry.host}`, [`ca = ${JSON.stringify(file("ca.pem"))}`]) }),
    }),
  ],
  [
    "TLS that wants a client certificate",
    async () => ({
      tls: { requestCert: true },
      nydusd: (registry) => ({ scheme: "https", hosts_dirs: [hostsToml(`https://${registry.host}`, client())] }),
      env: (registry) => ({ NYDUS_HOSTS_DIRS: hostsToml(`https://${registry.host}`, client()) }),
    }),
  ],
  [
    "a proxy that is the only way",
    async () => {
      const proxy = await startProxy();
      return {
        host: ({ port }) => `${proxiedName}:${port}`,
        nydusd: ({ port }) => ({ host: `${proxiedName}:${port}`, proxy: { url: proxy, fallback: false } }),
        env: ({ port }) => ({
          HTTP_PROXY: proxy,
          HTTPS_PROXY: proxy,
          NO_PROXY: "localhost",
          NYDUS_HOSTS_DIRS: hostsToml(`http://${proxiedName}:${port}`, []),
        }),
      };
    },
  ],
])(
  "over %s an image is pulled, converted, pushed, checked, copied, prefetched and read",
  async (_, make) => {
    const transport = await make();
    if (transport.tls !== undefined) await makeCertificates();
    const tls = transport.tls && { key: pem("server.key"), cert: pem("server.pem"), ca: pem("ca.pem"), ...transport.tls };
    const { host, env } = transport;
    const image = await lazyImage(workspace, {
      files: 8,
      prefetch: [2],
      registry: tls === undefined ? {} : { tls },
      ...(host === undefined ? {} : { host }),
      ...(env === undefined ? {} : { env }),
    });
    const name = host?.(image.registry) ?? image.registry.host;
    const nydusify = (...args: string[]) =>
      run(join(repository, "bin/node"), [program, "nydusify", ...args], { env: env?.(image.registry) ?? {} });
    await nydusify("check", "--source", `${name}/app:source`, "--target", `${name}/app:v1`);
    await nydusify("copy", "--source", `${name}/app:v1`, "--target", `${name}/copy:v1`, "--work-dir", workspace.path("copy"));
    expect(image.registry.store.manifest("copy", "v1")?.digest).toBe(image.registry.store.manifest("app", "v1")?.digest);
    const nydusd = await startNydusd(workspace, ["fuse"]);
    const config = registryConfig(image.registry.host, image.newCache(), {
      backend: transport.nydusd(image.registry),
      rafs: { fs_prefetch: { enable: true, prefetch_all: false } },
    });
    await nydusd.client.mount("/a", { source: image.bootstrap, fs_type: "rafs", config, probe: true });
    await expect.poll(async () => (await nydusd.client.blobcacheMetrics("/a")).prefetch_data_amount).toBe(fileBytes);
    for (const index of [2, 5]) expect(await readFile(join(nydusd.mountpoint, "a", fileOf(index)))).toEqual(image.contents[index]);
  },
  60_000,
);

function pem(name: string): string {
  return readFileSync(file(name), "utf8");
}

/** A CA of our own, and certificates of it for the server and for a client. */
async function makeCertificates(): Promise<void> {
  mkdirSync(workspace.path("pki"));
  const openssl = (...args: string[]) => run("openssl", args, { directory: workspace.path("pki") });
  const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
  await openssl("req", "-x509", ...key, "-subj", "/CN=test CA", "-keyout", "ca.key", "-out", "ca.pem");
  for (const name of ["server", "client"]) {
    const from = ["-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "subjectAltName=IP:127.0.0.1"];
    await openssl("req", "-x509", ...from, ...key, "-subj", `/CN=${name}`, "-keyout", `${name}.key`, "-out", `${name}.pem`);
  }
}

/** A forward proxy that finds `proxiedName` on this machine, for tunnels and for plain requests. */
async function startProxy(): Promise<string> {
  const there = (name: string | undefined): string => (name === proxiedName ? "127.0.0.1" : "0.0.0.0");
  const proxy = createServer((incoming, outgoing) => {
    const url = new URL(incoming.url ?? "");
    const onward = {
      host: there(url.hostname),
      port: url.port,
      path: url.pathname + url.search,
      method: incoming.method,
      headers: incoming.headers,
    };
    const forwarded = request(onward, (answer: IncomingMessage) => {
      outgoing.writeHead(answer.statusCode ?? 502, answer.headers);
      answer.pipe(outgoing);
    });
    forwarded.on("error", () => outgoing.destroy());
    incoming.pipe(forwarded);
  });
  proxy.on("connect", ({ url = "" }: IncomingMessage, socket) => {
    const [name, port] = url.split(":");
    const onward = connect(Number(port), there(name), () => {
      socket.write("HTTP/1.1 200 OK\r\n\r\n");
      onward.pipe(socket).pipe(onward);
    });
    onward.on("error", () => socket.destroy());
    socket.on("error", () => onward.destroy());
  });
  await new Promise<void>((resolve) => proxy.listen(0, "127.0.0.1", resolve));
  workspace.defer(() => {
    proxy.closeAllConnections();
    proxy.close();
  });
  return `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`;
}
