import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { exportConfig, parseConfig } from "../src/config/index.ts";
import { NydusdError } from "../src/errors.ts";

const v1 = (changes: Record<string, unknown> = {}): string =>
  JSON.stringify({
    device: {
      backend: { type: "registry", config: { host: "registry.example", repo: "app", auth: "dXNlcjpwYXNz" } },
      cache: { type: "blobcache", config: { work_dir: "/cache" } },
    },
    mode: "direct",
    ...changes,
  });

function faults(text: string): string[] {
  try {
    parseConfig(text, "nydusd.conf");
  } catch (error) {
    expect(error).toMatchObject({ name: "NydusdError", code: "CONFIG_INVALID" });
    return (error as NydusdError).message.split("\n");
  }
  throw new Error("the configuration was accepted");
}

describe("version 1", () => {
  test("becomes version 2: prefetch goes to both tables, chunks are verified unless it says otherwise", () => {
    const { config } = parseConfig(v1({ amplify_io: 0, digest_validate: true, fs_prefetch: { enable: true, threads_count: 3 } }), "c");
    expect(config.cache?.prefetch).toEqual(config.rafs?.prefetch);
    expect(config.rafs).toMatchObject({ batch_size: 0, validate: true, prefetch: { enable: true, threads: 3, prefetch_all: true } });
    expect(config.cache).toMatchObject({ type: "blobcache", validate: true, filecache: { work_dir: "/cache" } });
    expect(config.backend?.registry).toMatchObject({ timeout: 5, hosts_dirs: [], mirrors: [] });
  });

  test("`compressed` inside cache.config has no effect, as it never had", () => {
    const text = JSON.stringify({
      device: {
        backend: { type: "localfs", config: { dir: "/blobs" } },
        cache: { type: "blobcache", validate: false, config: { work_dir: "/cache", compressed: true } },
      },
      mode: "direct",
    });
    const { config, warnings } = parseConfig(text, "c");
    expect(config.cache).toMatchObject({ compressed: false, validate: false });
    expect(warnings).toEqual([]);
  });

  test("http-proxy is refused with the way out", () => {
    expect(faults('{"device":{"backend":{"type":"http-proxy","config":{}}},"mode":"direct"}')[0]).toContain("version 2");
  });
});

describe("version 2", () => {
  test("TOML and JSON of the same content are the same configuration", () => {
    const toml = `
version = 2
[backend]
type = "localfs"
[backend.localfs]
dir = "/blobs"
[cache]
type = "filecache"
[cache.filecache]
work_dir = "/cache"
[rafs]
mode = "direct"
`;
    const json = JSON.stringify({
      version: 2,
      backend: { type: "localfs", localfs: { dir: "/blobs" } },
      cache: { type: "filecache", filecache: { work_dir: "/cache" } },
      rafs: { mode: "direct" },
    });
    expect(parseConfig(toml, "c").config).toEqual(parseConfig(json, "c").config);
  });

  test("mirrors of older versions are read with their defaults", () => {
    const text = `version = 2
[backend]
type = "registry"
[backend.registry]
host = "r"
repo = "a"
hosts_dirs = ["/etc/nydus/certs.d"]
[[backend.registry.mirrors]]
host = "http://127.0.0.1:65001"
headers = { X-Dragonfly-Registry = "https://r" }
`;
    expect(parseConfig(text, "c").config.backend?.registry).toMatchObject({
      hosts_dirs: ["/etc/nydus/certs.d"],
      mirrors: [{ host: "http://127.0.0.1:65001", failure_limit: 5, health_check_interval: 5, auth_through: false }],
    });
  });
});

describe("faults", () => {
  test("all are reported at once, each with file, line, key, expectation and finding", () => {
    const text = `{
  "device": {
    "backend": { "type": "registry", "config": {
      "host": "",
      "repo": 7,
      "timeout": -1 } },
    "cache": { "type": "blob" }
  },
  "mode": "Direct",
  "amplify_io": 1e12
}`;
    expect(faults(text)).toEqual([
      "nydusd.conf:4: device.backend.config.host: must not be empty",
      "nydusd.conf:5: device.backend.config.repo: expected string, found 7",
      "nydusd.conf:6: device.backend.config.timeout: expected at least 0, found -1",
      'nydusd.conf:7: device.cache.type: expected "blobcache" or "filecache" or "fscache" or "dummycache" or "", found "blob"',
      'nydusd.conf:9: mode: expected "direct" or "cached", found "Direct"',
      "nydusd.conf:10: amplify_io: expected at most 268435456, found 1000000000000",
    ]);
  });

  test("a missing key is named as missing, at the line of its table", () => {
    const text = 'version = 2\n[backend]\ntype = "registry"\n[backend.registry]\nhost = "r"\n[cache]\ntype = "filecache"\n';
    expect(faults(text)).toEqual([
      "nydusd.conf:4: backend.registry.repo: is missing, expected a string",
      'nydusd.conf:6: cache.filecache: is missing, but type is "filecache"',
    ]);
  });

  test("unknown keys are warnings with their line, and the rest counts", () => {
    const { config, warnings } = parseConfig(v1({ digest_validat: true }), "nydusd.conf");
    expect(warnings).toEqual(["nydusd.conf:1: digest_validat: unknown key, ignored"]);
    expect(config.rafs?.validate).toBe(false);
  });

  test("broken JSON is located without repeating what stands around it", () => {
    expect(faults('{\n "auth": "c2VjcmV0",\n "x": tok }')).toEqual(['nydusd.conf:3: not valid JSON: unexpected character "o"']);
    expect(faults('{"device": {')).toEqual(["nydusd.conf:1: not valid JSON: unexpected end of the text"]);
  });

  test("broken TOML, an empty text, a list and a foreign document are told apart", () => {
    expect(faults("version = 2\nx = =\n")[0]).toMatch(/^nydusd\.conf:2: neither JSON .* nor valid TOML$/);
    expect(faults("")[0]).toBe("nydusd.conf:1: the text is empty");
    expect(faults("[]")[0]).toContain("found a list");
    expect(faults('{"kind":"Pod"}')[0]).toContain("neither a version 2 nor a version 1");
  });

  test("credentials that can't be decoded are refused and not repeated", () => {
    const text = JSON.stringify({
      device: { backend: { type: "registry", config: { host: "h", repo: "r", auth: "hunter2" } } },
      mode: "direct",
    });
    const [fault] = faults(text);
    expect(fault).toContain("device.backend.config.auth: expected base64 of user:password");
    expect(fault).not.toContain("hunter2");
  });

  test("any text ends in a configuration or in CONFIG_INVALID", () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string(),
          fc.json(),
          fc.string().map((text) => v1().slice(0, 40) + text),
        ),
        (text) => {
          try {
            parseConfig(text, "c");
          } catch (error) {
            expect(error).toBeInstanceOf(NydusdError);
          }
        },
      ),
      { numRuns: 300 },
    );
  });
});

test("the exported configuration has every key and no secret", () => {
  const text = JSON.stringify({
    version: 2,
    backend: {
      type: "registry",
      registry: {
        host: "h",
        repo: "r",
        auth: Buffer.from("user:hunter2").toString("base64"),
        registry_token: "hunter2",
        mirrors: [{ host: "http://user:hunter2@mirror", headers: { Authorization: "hunter2", "X-Plain": "shown" } }],
      },
      s3: { endpoint: "e", region: "r", bucket_name: "b", access_key_id: "hunter2", access_key_secret: "hunter2" },
      oss: { endpoint: "e", bucket_name: "b", proxy: { url: "http://user:hunter2@proxy" } },
    },
    cache: { type: "filecache", filecache: { work_dir: "/c", encryption_key: "hunter2" } },
  });
  const exported = exportConfig(parseConfig(text, "c").config);
  expect(JSON.stringify(exported)).not.toContain("hunter2");
  expect(JSON.stringify(exported)).not.toContain(Buffer.from("user:hunter2").toString("base64"));
  expect(exported).toMatchObject({
    rafs: null,
    overlay: null,
    backend: {
      localfs: null,
      "http-proxy": null,
      registry: { auth: null, registry_token: null, mirrors: [{ host: "http://mirror", headers: { "X-Plain": "shown" } }] },
    },
    cache: { fscache: null, filecache: { encryption_key: "" } },
  });
});
