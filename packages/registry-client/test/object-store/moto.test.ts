import { createHash, randomBytes } from "node:crypto";
import { until, freePort, run, Workspace } from "@nydus-ts/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { nydusdObjectStoreOptions, ObjectStore, objectStoreBackend } from "../../src/index.ts";

/*
 * moto is a whole S3 that others wrote (PyPI `moto[server]`). With authorisation on it checks each signature with botocore, Amazon's own.
 */
const found = await run("python3", ["-c", "import moto.server"], { check: false, deadlineMs: 30_000 }).catch(() => undefined);
const absent = found?.code === 0 ? undefined : "python3 has no moto.server; `pip install 'moto[server]'` runs them";

describe.skipIf(absent !== undefined)(`moto's S3${absent === undefined ? "" : ` (${absent})`}`, () => {
  let workspace: Workspace;
  let host: string;
  const key = { access_key_id: "", access_key_secret: "" };
  const blob = randomBytes(12_000_000);
  const digest = createHash("sha256").update(blob).digest("hex");
  const source = {
    size: blob.length,
    digest: `sha256:${digest}`,
    open: async function* () {
      for (let at = 0; at < blob.length; at += 65_536) yield blob.subarray(at, at + 65_536);
    },
  };
  const optionsOf = (changes: object = {}) => {
    const config = { endpoint: host, scheme: "http", region: "us-east-1", bucket_name: "blobs", object_prefix: "images of (all)/", ...key };
    return nydusdObjectStoreOptions("s3", { ...config, ...changes }, { file: "the test", key: "backend.s3" });
  };

  beforeAll(async () => {
    workspace = new Workspace("moto");
    const port = await freePort();
    host = `127.0.0.1:${port}`;
    const logFile = workspace.path("moto.log");
    // Without authorisation until a user, its key, its rights and the bucket are there.
    const env = { INITIAL_NO_AUTH_ACTION_COUNT: "4" };
    const program = workspace.start({
      command: "python3",
      args: ["-m", "moto.server", "-H", "127.0.0.1", "-p", String(port)],
      logFile,
      env,
    });
    await until("moto listens", () => program.tail().includes("Running on"), 60_000);
    const nobody = (service: string): string => `AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/${service}/aws4_request, Signature=x`;
    const iam = async (action: string, more: Record<string, string> = {}): Promise<string> => {
      const body = new URLSearchParams({ Action: action, UserName: "nydus", Version: "2010-05-08", ...more });
      const answer = await fetch(`http://${host}/`, { method: "POST", body, headers: { authorization: nobody("iam") } });
      if (!answer.ok) throw new Error(await answer.text());
      return await answer.text();
    };
    await iam("CreateUser");
    const made = await iam("CreateAccessKey");
    key.access_key_id = /<AccessKeyId>(.*?)</.exec(made)![1]!;
    key.access_key_secret = /<SecretAccessKey>(.*?)</.exec(made)![1]!;
    const policy = { Version: "2012-10-17", Statement: [{ Effect: "Allow", Action: "s3:*", Resource: "*" }] };
    await iam("PutUserPolicy", { PolicyName: "s3", PolicyDocument: JSON.stringify(policy) });
    const bucket = await fetch(`http://${host}/blobs`, { method: "PUT", headers: { authorization: nobody("s3") } });
    if (!bucket.ok) throw new Error(await bucket.text());
  }, 90_000);
  afterAll(() => workspace?.[Symbol.asyncDispose]());

  test.each([
    ["whole", 16_000_000],
    ["in parts", 5_242_880],
  ])("takes a blob %s, once, and gives ranges of it", async (way, partBytes) => {
    const options = { ...optionsOf({ object_prefix: `${way}/` }) };
    await using store = new ObjectStore(options);
    expect(await store.put(digest, source, { stepDeadlineMs: 30_000, partBytes })).toBe(true);
    expect(await store.put(digest, source, { stepDeadlineMs: 30_000, partBytes })).toBe(false);
    await using backend = objectStoreBackend({ ...options, environment: {} });
    const demand = { deadlineMs: 30_000, priority: "demand" } as const;
    expect(await backend.size(digest, demand)).toBe(blob.length);
    const range = { offset: 5_000_001, length: 1_000_003 };
    expect(Buffer.from(await backend.read(digest, range, demand)).equals(blob.subarray(range.offset, range.offset + range.length))).toBe(
      true,
    );
  });

  test("refuses a key of another secret, in its own words and without the secret", async () => {
    await using backend = objectStoreBackend({ ...optionsOf({ access_key_secret: "of somebody else" }), environment: {} });
    const read = backend.read(digest, { offset: 0, length: 1 }, { deadlineMs: 30_000, priority: "demand" });
    await expect(read).rejects.toMatchObject({ code: "REGISTRY_FORBIDDEN", message: expect.stringContaining("SignatureDoesNotMatch") });
    await expect(read).rejects.toMatchObject({ message: expect.not.stringContaining("somebody") });
  });
});
