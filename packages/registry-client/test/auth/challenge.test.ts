import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { parseChallenges } from "../../src/auth/challenge.ts";

const plain = (values: string[]) => parseChallenges(values).map(({ scheme, params }) => [scheme, Object.fromEntries(params)]);

describe("challenges are parsed as RFC 7235 has them", () => {
  test("quoted values keep commas, equal signs and escaped quotes", () => {
    expect(plain(['Bearer realm="https://auth/token?a=b,c",service="reg \\"x\\"",scope="repository:a/b:pull,push"'])).toEqual([
      ["bearer", { realm: "https://auth/token?a=b,c", service: 'reg "x"', scope: "repository:a/b:pull,push" }],
    ]);
  });

  test("names and schemes are the same in any case, and spaces around '=' are allowed", () => {
    expect(plain(['bEARER Realm = "https://a" , SERVICE=x'])).toEqual([["bearer", { realm: "https://a", service: "x" }]]);
  });

  test("several challenges in one value or in several are all found, in order", () => {
    expect(plain(['Negotiate, Basic realm="r", Bearer realm="https://t"', "Digest realm=d"]).map(([scheme]) => scheme)).toEqual([
      "negotiate",
      "basic",
      "bearer",
      "digest",
    ]);
  });

  test("a quote that never ends gives what came before it, and no exception", () => {
    expect(plain(['Basic realm="open, Bearer realm="x"']).map(([scheme]) => scheme)).toContain("basic");
  });

  test("no text whatever throws or hangs", () => {
    fc.assert(fc.property(fc.string({ maxLength: 200 }), (text) => parseChallenges([text, `Bearer ${text}`]).length >= 0));
  });
});
