import { createHmac } from "node:crypto";
import type { RequestSigner } from "../request-signer.ts";
import { type AccessKey, headerText } from "./keys.ts";

/** Parts of a query that name another resource than the object itself. Source: OSS API reference, "Include signatures in the Authorization header" */
const subresources = ["partNumber", "uploadId", "uploads"];

/**
 * The header signature of Alibaba Cloud OSS, version 1: base64(HMAC-SHA1(secret, VERB, Content-MD5, Content-Type, Date, x-oss-* headers,
 * /bucket/key)). Range is not signed.
 *
 * @param object  which one a URL stands for, as `bucket/key`
 * @param now  wall clock in milliseconds
 * Source: spec/nydusd.md 13.3
 */
export function ossSigner(key: AccessKey, object: (url: URL) => string, source: string, now: () => number = Date.now): RequestSigner {
  return {
    source,
    async sign({ method, url, headers }) {
      const lower = Object.fromEntries(Object.entries(headers).map(([name, value]) => [name.toLowerCase(), headerText(value)]));
      const date = lower["date"] ?? new Date(now()).toUTCString();
      const ossHeaders = Object.keys(lower)
        .filter((name) => name.startsWith("x-oss-"))
        .sort()
        .map((name) => `${name}:${lower[name]}\n`);
      const query = subresources.flatMap((name) => {
        const value = url.searchParams.get(name);
        return value === null ? [] : value === "" ? name : `${name}=${value}`;
      });
      const resource = `/${object(url)}${query.length === 0 ? "" : `?${query.join("&")}`}`;
      const text = [method, lower["content-md5"] ?? "", lower["content-type"] ?? "", date, `${ossHeaders.join("")}${resource}`].join("\n");
      const signature = createHmac("sha1", key.secret).update(text).digest("base64");
      return { date, authorization: `OSS ${key.id}:${signature}` };
    },
  };
}
