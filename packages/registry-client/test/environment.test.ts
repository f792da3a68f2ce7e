import { describe, expect, test } from "vitest";
import { registryEnvironment } from "../src/index.ts";

const proxyOf = (host: string, environment: Record<string, string>, scheme?: "http" | "https") =>
  registryEnvironment(host, scheme, environment).proxy?.url;
const both = { HTTPS_PROXY: "http://secure:1", HTTP_PROXY: "http://plain:2" };

describe("the proxy of the environment", () => {
  test.each([
    ["registry.example", {}, "http://secure:1"],
    ["docker.io", {}, "http://secure:1"],
    ["127.0.0.1:5000", {}, undefined],
    ["localhost:5000", {}, undefined],
    ["registry.example", { NO_PROXY: "other.example, registry.example" }, undefined],
    ["registry.example:5000", { NO_PROXY: "registry.example:5000" }, undefined],
    ["registry.example:5001", { NO_PROXY: "registry.example:5000" }, "http://secure:1"],
    ["registry.example", { NO_PROXY: "example" }, undefined],
    ["registry.example", { no_proxy: ".example" }, undefined],
    ["registry.example", { NO_PROXY: ".registry.example" }, "http://secure:1"],
    ["notregistry.example", { NO_PROXY: "registry.example" }, "http://secure:1"],
    ["registry.example", { NO_PROXY: "*" }, undefined],
  ])("of %s with %j is %s", (host, more, expected) => {
    expect(proxyOf(host, { ...both, ...more } as Record<string, string>)).toBe(expected);
  });

  test("is that of the registry's scheme, also in lower case and without a scheme of its own, and none is none", () => {
    expect(proxyOf("registry.example", both, "http")).toBe("http://plain:2");
    expect(proxyOf("registry.example", { https_proxy: "proxy:3128" })).toBe("http://proxy:3128");
    expect(proxyOf("registry.example", { HTTP_PROXY: "http://plain:2" })).toBeUndefined();
  });

  test("is not used for targets of redirects that NO_PROXY names", () => {
    const { proxy } = registryEnvironment("registry.example", undefined, { ...both, NO_PROXY: "cdn.example" });
    expect([proxy?.applies?.(new URL("https://registry.example/v2/")), proxy?.applies?.(new URL("https://cdn.example/blob"))]).toEqual([
      true,
      false,
    ]);
  });
});
