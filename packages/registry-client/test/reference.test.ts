import { describe, expect, test } from "vitest";
import { parseReference, serverOf } from "../src/reference.ts";

const HEX = "a".repeat(64);

describe("references are read as docker and containerd read them", () => {
  test.each([
    ["alpine", "docker.io/library/alpine:latest"],
    ["alpine:3.20", "docker.io/library/alpine:3.20"],
    ["user/app", "docker.io/user/app:latest"],
    ["docker.io/alpine", "docker.io/library/alpine:latest"],
    ["index.docker.io/user/app:1", "docker.io/user/app:1"],
    ["localhost/app", "localhost/app:latest"],
    ["localhost:5000/app", "localhost:5000/app:latest"],
    ["127.0.0.1:5000/a/b/c:T-1_x.y", "127.0.0.1:5000/a/b/c:T-1_x.y"],
    ["[::1]:5000/app", "[::1]:5000/app:latest"],
    ["ghcr.io/o/r@sha256:" + HEX, "ghcr.io/o/r@sha256:" + HEX],
    ["ghcr.io/o/r:tag@sha256:" + HEX, "ghcr.io/o/r:tag@sha256:" + HEX],
    ["a__b/c-d.e", "docker.io/a__b/c-d.e:latest"],
  ])("%s is %s", (text, normalized) => {
    expect(parseReference(text).normalized).toBe(normalized);
  });

  test.each([
    "",
    "UPPER",
    "a//b",
    "/a",
    "a/",
    "host.io/",
    "a:b:c",
    "a@sha256:short",
    "a:-tag",
    "exa mple",
    "http://host/a",
    "a:" + "t".repeat(129),
    "host.io/" + "a".repeat(256),
    "../x",
  ])("%j is refused as REGISTRY_REFERENCE", (text) => {
    expect(() => parseReference(text)).toThrowError(expect.objectContaining({ code: "REGISTRY_REFERENCE" }));
  });

  test("Docker Hub's name is docker.io, its server another", () => {
    expect(serverOf("docker.io")).toBe("registry-1.docker.io");
    expect(serverOf("ghcr.io")).toBe("ghcr.io");
  });
});
