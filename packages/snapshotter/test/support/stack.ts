import { copyFileSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { main } from "../../src/main.ts";
import type { Mount } from "../../src/mounts/mount-list.ts";
import { TestClient } from "../../src/testing/index.ts";
import { until } from "./world.ts";

export const LABEL = "containerd.io/snapshot/";
export const IMAGE_REF = `${LABEL}cri.image-ref`;
export const FIXTURE_BLOB = "266eb6a9a28063325c437777386b09011a0d92085530ff7c965447acaaf94904";
export const FIXTURE_BOOTSTRAP = join(import.meta.dirname, "../fixtures/small-v6.boot");

export interface StackOptions {
  /** Lines of the TOML file: keys at the top, keys of [daemon], and whole tables. */
  readonly top?: string;
  readonly daemon?: string;
  readonly tables?: string;
  readonly nydusd?: string;
  readonly template?: object;
}

export interface Stack extends AsyncDisposable {
  readonly client: TestClient;
  readonly root: string;
  readonly socket: string;
  readonly log: string[];
  /** Ends the snapshotter as SIGTERM does; daemons go on. */
  stop(): Promise<number>;
}

export const LOCALFS_TEMPLATE = {
  device: { backend: { type: "localfs", config: { dir: "/nonexistent" } }, cache: { type: "blobcache", config: {} } },
  mode: "direct",
};
/** With it, an image reference on a pulled layer makes the snapshotter look at the registry; tests without one give the reference later. */
export const REGISTRY_TEMPLATE = {
  device: { backend: { type: "registry", config: { timeout: 5 } }, cache: { type: "blobcache", config: {} } },
  mode: "direct",
};

/** The whole program in this process, as a service file starts it. */
export async function startStack(directory: string, options: StackOptions = {}): Promise<Stack> {
  const root = join(directory, "root");
  const socket = join(directory, "s.sock");
  const config = join(directory, "config.toml");
  const template = join(directory, "nydusd.json");
  writeFileSync(template, JSON.stringify(options.template ?? LOCALFS_TEMPLATE));
  writeFileSync(
    config,
    `version = 1
root = "${root}"
address = "${socket}"
${options.top ?? ""}
[log]
log_to_stdout = true
level = "debug"
[containerd]
address = ""
[daemon]
nydusd_config = "${template}"
nydusd_path = "${options.nydusd ?? "/nonexistent/nydusd"}"
${options.daemon ?? ""}
${options.tables ?? ""}
`,
  );
  const terminate = new AbortController();
  const log: string[] = [];
  const io = {
    env: {},
    program: "",
    writeOut: (text: string) => void log.push(text),
    writeErr: (text: string) => void log.push(text),
    terminate: terminate.signal,
  };
  let ended: number | undefined;
  const exit = main(["--config", config], io).then((code) => {
    ended = code;
    return code;
  });
  const client = new TestClient(socket);
  await until(() => log.some((line) => line.includes("is ready")) || ended !== undefined, "the snapshotter to be ready");
  if (ended !== undefined) throw new Error(`exit ${ended}: ${log.join("")}`);
  const stop = async (): Promise<number> => {
    client.close();
    terminate.abort();
    return exit;
  };
  return { client, root, socket, log, stop, [Symbol.asyncDispose]: async () => void (await stop()) };
}

/** The upper directory of writable mounts, or the directory of a bind. */
export function upperOf(mounts: readonly Mount[]): string {
  const option = mounts[0].options.find((text) => text.startsWith("upperdir="));
  return option?.slice("upperdir=".length) ?? mounts[0].source;
}

export const lowersOf = (mounts: readonly Mount[]): string[] =>
  (mounts[0].options.find((text) => text.startsWith("lowerdir=")) ?? "lowerdir=").slice("lowerdir=".length).split(":");

/** Pulls a nydus image as containerd does: blob layers are skipped, the bootstrap is unpacked. Answers the name of its top snapshot. */
export async function pullNydusImage(
  client: TestClient,
  options: {
    name?: string;
    blobs?: number;
    labels?: Record<string, string>;
    bootstrap?: string | null;
    metas?: readonly string[];
    /** Of all blob layers. */
    blobDigest?: string;
    /** What the lowest layer stands on. */
    parent?: string;
  } = {},
): Promise<string> {
  const name = options.name ?? "image";
  const labels = { [`${LABEL}cri.image-ref`]: `localhost:5000/${name}:latest`, ...options.labels };
  let parent = options.parent ?? "";
  for (let layer = 0; layer < (options.blobs ?? 1); layer++) {
    const chain = `sha256:${name}-${layer}`;
    const refused = await client
      .call("Prepare", {
        key: `test/1/extract-${layer} ${chain}`,
        parent,
        labels: {
          ...labels,
          "containerd.io/snapshot.ref": chain,
          [`${LABEL}nydus-blob`]: "true",
          [`${LABEL}cri.layer-digest`]: options.blobDigest ?? `sha256:${FIXTURE_BLOB}`,
        },
      })
      .then(
        () => undefined,
        (error) => error,
      );
    if (refused?.code !== 6) throw new Error(`a blob layer must be answered with ALREADY_EXISTS, was ${refused?.message ?? "prepared"}`);
    const [found] = (await client.list([`labels."containerd.io/snapshot.ref"==${chain},parent==${JSON.stringify(parent)}`])).flat();
    parent = found.name;
  }
  const chain = `sha256:${name}-boot`;
  const bootLabels = { ...labels, "containerd.io/snapshot.ref": chain, [`${LABEL}nydus-bootstrap`]: "true" };
  const key = `test/2/extract-boot ${chain}`;
  const { mounts } = await client.call("Prepare", { key, parent, labels: bootLabels });
  const image = join(upperOf(mounts), "image");
  mkdirSync(image);
  if (options.bootstrap !== null) {
    copyFileSync(options.bootstrap ?? FIXTURE_BOOTSTRAP, join(image, "image.boot"));
    for (const meta of options.metas ?? []) writeFileSync(join(image, meta), "meta");
  }
  const top = `test/3/${chain}`;
  await client.call("Commit", { key, name: top, labels: bootLabels });
  return top;
}
