import { expect, test } from "vitest";
import { CannedDaemon, nydusctl } from "./support.ts";

const mebi = 1_048_576;
const layer = (changes: object) => ({ snapshot: "k", digest: `sha256:${"ab".repeat(32)}`, reason: "because", ...changes });
const lazy = {
  snapshot: "k8s.io/9/sha256:top",
  kind: "committed",
  image: "registry.example/app:1",
  mountpoint: "/mnt/2",
  broken: null,
  layers: [
    layer({ format: "nydus-blob", mode: "lazy", bytesLocal: 3 * mebi, bytesTotal: 12 * mebi }),
    layer({ format: "nydus-bootstrap", mode: "lazy", bytesLocal: 4096, bytesTotal: 4096, digest: null }),
    layer({ format: "ordinary", mode: "overlay", bytesLocal: mebi, bytesTotal: mebi }),
  ],
};
const explain = (daemon: CannedDaemon, ...more: string[]) =>
  nydusctl("explain", "registry.example/app:1", "--system-socket", daemon.socketPath, ...more);

test("explain says how much of an image is here, where it is mounted, and why each layer is served as it is", async () => {
  await using daemon = await CannedDaemon.start();
  daemon.answers.set("GET /api/v1/explain", lazy);
  const { exitCode, out } = await explain(daemon);
  expect(exitCode).toBe(0);
  expect(daemon.requests).toEqual(["GET /api/v1/explain?name=registry.example%2Fapp%3A1"]);
  expect(out).toBe(`image     registry.example/app:1
snapshot  k8s.io/9/sha256:top (committed)
served    lazily: 25 % of 12.0 MiB is here; 1 layers are unpacked
mounted   /mnt/2

LAYER           FORMAT           MODE     HERE     OF        WHY
1 abababababab  nydus-blob       lazy     3.0 MiB  12.0 MiB  because
2               nydus-bootstrap  lazy     0.0 MiB  0.0 MiB   because
3 abababababab  ordinary         overlay  1.0 MiB  1.0 MiB   because
`);
  expect(JSON.parse((await explain(daemon, "--raw")).out)).toEqual(lazy);
});

test("explain says of an ordinary image that nothing of it is lazy, and of one without data that it is unknown", async () => {
  await using daemon = await CannedDaemon.start();
  const ordinary = {
    ...lazy,
    mountpoint: null,
    layers: [layer({ format: "ordinary", mode: "overlay", bytesLocal: null, bytesTotal: null })],
  };
  daemon.answers.set("GET /api/v1/explain", ordinary);
  const { out } = await explain(daemon);
  expect(out).toMatch(/^served +unpacked on the disk/m);
  expect(out).not.toMatch(/^mounted/m);
  expect(out).toMatch(/ordinary +overlay +\? +\? +because/);
  daemon.answers.set("GET /api/v1/explain", { ...lazy, mountpoint: null, image: null, broken: "image.boot is missing" });
  const broken = (await explain(daemon)).out;
  expect(broken).toMatch(/^mounted +not yet/m);
  expect(broken).toMatch(/^broken +image\.boot is missing$/m);
});

test("a name nobody knows, a socket nobody serves and an answer of something else are one line and exit code 1", async () => {
  await using daemon = await CannedDaemon.start();
  daemon.answers.set("GET /api/v1/explain", 404);
  expect(await explain(daemon)).toEqual({ exitCode: 1, out: "", err: "Error: refused with 404\n" });
  daemon.answers.set("GET /api/v1/explain", { something: "else" });
  expect((await explain(daemon)).err).toMatch(/^Error: .*not the answer of a snapshotter.*\n$/);
  const nobody = await nydusctl("explain", "x", "--system-socket", `${daemon.directory}/none.sock`);
  expect(nobody.exitCode).toBe(1);
  expect(nobody.err).toMatch(/^Error: [^\n]*enable = true[^\n]*\n$/);
});
