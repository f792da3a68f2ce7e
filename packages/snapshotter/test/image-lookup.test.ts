import { createHash } from "node:crypto";
import { join } from "node:path";
import * as grpc from "@grpc/grpc-js";
import protobuf from "protobufjs";
import { expect, test } from "vitest";
import { chainIdOf, findImage, findLayer, Manifests } from "../src/containerd/image-lookup.ts";
import { LookedUp } from "../src/containerd/looked-up.ts";
import { lookedUpMax } from "../src/limits.ts";
import { silentLog } from "../src/log.ts";
import type { Snapshot } from "../src/store/snapshots.ts";
import { temporaryRoot } from "./support/world.ts";

// containerd's own field numbers, written down a second time so that the client is not held against itself.
const root = protobuf.parse(`
  syntax = "proto3"; package c;
  message Descriptor { string media_type = 1; string digest = 2; int64 size = 3; map<string, string> annotations = 5; }
  message Image { string name = 1; map<string, string> labels = 2; Descriptor target = 3; }
  message ListReply { repeated Image images = 1; }
  message ReadRequest { string digest = 1; int64 offset = 2; int64 size = 3; }
  message ReadReply { int64 offset = 1; bytes data = 2; }`).root;
const encode = (type: string) => (value: object) =>
  Buffer.from(
    root
      .lookupType(`c.${type}`)
      .encode(root.lookupType(`c.${type}`).fromObject(value))
      .finish(),
  );

async function containerd(
  socket: string,
  images: Record<string, string>,
  content: Record<string, string>,
  /** Told the digest of every read. */
  onRead: (digest: string) => void = () => undefined,
): Promise<grpc.Server> {
  const server = new grpc.Server();
  const raw = (bytes: Buffer) => bytes;
  server.addService(
    {
      List: {
        path: "/containerd.services.images.v1.Images/List",
        requestStream: false,
        responseStream: false,
        requestSerialize: raw,
        requestDeserialize: raw,
        responseSerialize: encode("ListReply"),
        responseDeserialize: raw,
      },
    } as never,
    {
      List: (call: grpc.ServerUnaryCall<Buffer, object>, callback: grpc.sendUnaryData<object>) => {
        const own = call.metadata.get("containerd-namespace")[0] === "test";
        callback(null, {
          images: own ? Object.entries(images).map(([name, digest]) => ({ name, target: { mediaType: "m", digest, size: 1 } })) : [],
        });
      },
    },
  );
  server.addService(
    {
      Read: {
        path: "/containerd.services.content.v1.Content/Read",
        requestStream: false,
        responseStream: true,
        requestSerialize: raw,
        requestDeserialize: (bytes: Buffer) => root.lookupType("c.ReadRequest").decode(bytes),
        responseSerialize: encode("ReadReply"),
        responseDeserialize: raw,
      },
    } as never,
    {
      Read: (call: grpc.ServerWritableStream<{ digest: string }, object>) => {
        onRead(call.request.digest);
        const text = content[call.request.digest];
        if (text === undefined) {
          call.emit("error", Object.assign(new Error("absent"), { code: grpc.status.NOT_FOUND, details: "absent" }));
          return;
        }
        const bytes = Buffer.from(text);
        call.write({ offset: 0, data: bytes.subarray(0, 10) });
        call.write({ offset: 10, data: bytes.subarray(10) });
        call.end();
      },
    },
  );
  await new Promise<void>((resolve, reject) =>
    server.bindAsync(`unix:${socket}`, grpc.ServerCredentials.createInsecure(), (error) => (error === null ? resolve() : reject(error))),
  );
  return server;
}

const sha = (text: string) => `sha256:${createHash("sha256").update(text).digest("hex")}`;
const annotations = { "containerd.io/snapshot/nydus-bootstrap": "true" };

test("an image is found by the chain id of its top layer, a layer by its own, in the namespace of the snapshot, also below an index", async () => {
  await using directory = temporaryRoot();
  const socket = join(directory.path, "c.sock");
  const diffIds = [sha("blob"), sha("boot")];
  const chain = sha(`${diffIds[0]} ${diffIds[1]}`);
  expect(chainIdOf(diffIds[0], diffIds[1])).toBe(chain);
  const content = {
    config: JSON.stringify({ rootfs: { diff_ids: diffIds } }),
    other: JSON.stringify({ rootfs: { diff_ids: [sha("x")] } }),
    manifest: JSON.stringify({
      config: { digest: "config", size: 1 },
      layers: [
        { digest: "blob", annotations: { "containerd.io/snapshot/nydus-blob": "true" } },
        { digest: "boot", annotations },
      ],
    }),
    short: JSON.stringify({ config: { digest: "config", size: 1 }, layers: [{ digest: "boot", annotations }] }),
    plain: JSON.stringify({ config: { digest: "config", size: 1 }, layers: [{}, {}] }),
    different: JSON.stringify({ config: { digest: "other", size: 1 }, layers: [{ annotations }] }),
    index: JSON.stringify({
      manifests: [
        { digest: "not-here", size: 1 },
        { digest: "manifest", size: 1 },
      ],
    }),
    garbage: "{",
  };
  const images = {
    "h/garbage:1": "garbage",
    "h/absent:1": "absent",
    "h/plain:1": "plain",
    "h/short:1": "short",
    "h/different:1": "different",
    "h/right:1": "index",
  };
  const server = await containerd(socket, images, content);
  try {
    const snapshot = (key: string, labels = {}) => ({ key, labels }) as Snapshot;
    expect(await findImage(socket, snapshot(`test/5/${chain}`), silentLog)).toBe("h/right:1");
    expect(await findImage(socket, snapshot("test/5/x", { "containerd.io/snapshot.ref": chain }), silentLog)).toBe("h/right:1");
    expect(await findImage(socket, snapshot(`elsewhere/5/${chain}`), silentLog)).toBeUndefined();
    expect(await findImage(socket, snapshot(`test/5/${sha("none")}`), silentLog)).toBeUndefined();
    expect(await findImage(socket, snapshot("no-containerd-key"), silentLog)).toBeUndefined();
    // The key of a client that unpacks layer by layer names the chain id: every layer of the image is found by it.
    const layer = (key: string) => findLayer(socket, key, silentLog);
    expect(await layer(`test/5/extract-12-ab_- ${diffIds[0]}`)).toMatchObject({ image: "h/right:1", digest: "blob" });
    expect(await layer(`test/5/extract-12-ab_- ${chain}`)).toMatchObject({ image: "h/right:1", digest: "boot", annotations });
    for (const other of [
      `test/5/extract-12-ab_- ${sha("none")}`,
      `elsewhere/5/extract-1 ${chain}`,
      `test/5/${chain}`,
      `extract-1 ${chain}`,
    ])
      expect(await layer(other), other).toBeUndefined();
  } finally {
    server.forceShutdown();
  }
  expect(
    await findImage(join(directory.path, "absent.sock"), { key: `test/5/${chain}`, labels: {} } as Snapshot, silentLog),
  ).toBeUndefined();
});

// A client without labels (ctr of containerd 1.6) makes every Prepare look through all images of its namespace.
test("calls that follow each other read every manifest once, and what was not there yet again", async () => {
  await using directory = temporaryRoot();
  const socket = join(directory.path, "c.sock");
  const diffIds = [sha("one"), sha("two"), sha("boot")];
  const chains = diffIds.map((_, index) => diffIds.slice(0, index + 1).reduce((below, diffId) => sha(`${below} ${diffId}`)));
  const content: Record<string, string> = {
    config: JSON.stringify({ rootfs: { diff_ids: diffIds } }),
    manifest: JSON.stringify({
      config: { digest: "config", size: 1 },
      layers: [{ digest: "one" }, { digest: "two" }, { digest: "boot", annotations }],
    }),
    index: JSON.stringify({ manifests: [{ digest: "manifest", size: 1 }] }),
  };
  const images: Record<string, string> = { "h/coming:1": "coming" };
  for (let other = 0; other < 20; other++) {
    content[`plain-${other}`] = JSON.stringify({ config: { digest: "config", size: 1 }, layers: [{}] });
    images[`h/plain-${other}:1`] = `plain-${other}`;
  }
  images["h/right:1"] = "index";
  const reads = new Map<string, number>();
  const server = await containerd(socket, images, content, (digest) => reads.set(digest, (reads.get(digest) ?? 0) + 1));
  try {
    const manifests = new Manifests();
    const layer = (index: number) => findLayer(socket, `test/5/extract-12-ab_- ${chains[index]}`, silentLog, manifests);
    const found = [...(await Promise.all([layer(0), layer(0)])), await layer(1), await layer(2)];
    expect(found.map((one) => one?.digest)).toEqual(["one", "one", "two", "boot"]);
    expect(await findImage(socket, { key: `test/6/${chains[2]}`, labels: {} } as Snapshot, silentLog, manifests)).toBe("h/right:1");
    const { coming, ...rest } = Object.fromEntries(reads);
    expect(coming).toBeGreaterThan(1);
    expect(rest).toEqual(Object.fromEntries([...Object.keys(content)].map((digest) => [digest, 1])));
    // It came.
    content["coming"] = JSON.stringify({ config: { digest: "config-2", size: 1 }, layers: [{ digest: "late", annotations }] });
    content["config-2"] = JSON.stringify({ rootfs: { diff_ids: [sha("late")] } });
    expect(await findLayer(socket, `test/5/extract-1 ${sha("late")}`, silentLog, manifests)).toMatchObject({ image: "h/coming:1" });
    // Another namespace's content is its own.
    expect(await findLayer(socket, `elsewhere/5/extract-1 ${chains[0]}`, silentLog, manifests)).toBeUndefined();
  } finally {
    server.forceShutdown();
  }
});

test("what was looked up is remembered up to a bound, the one not used for longest goes first", async () => {
  const lookedUp = new LookedUp<string>();
  let loads = 0;
  const get = (key: string) =>
    lookedUp.get(key, async () => {
      loads++;
      return key;
    });
  for (let entry = 0; entry < lookedUpMax; entry++) await get(`e${entry}`);
  await get("e0");
  expect(loads).toBe(lookedUpMax);
  await get("one more");
  await get("e0");
  expect(loads).toBe(lookedUpMax + 1);
  await get("e1");
  expect(loads).toBe(lookedUpMax + 2);
});
