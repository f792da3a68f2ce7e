import { createHash } from "node:crypto";
import { AwsV4Signer } from "aws4fetch";
import type { RequestSigner } from "../request-signer.ts";
import { type AccessKey, headerText } from "./keys.ts";

const emptyDigest = createHash("sha256").digest("hex");

/**
 * AWS Signature Version 4 in the Authorization header. Signed are what names the object and what is asked of it: host, range, x-amz-*,
 * Content-MD5. Other headers may be changed on the way. A body is signed by the `x-amz-content-sha256` that stands in the request.
 *
 * @param now  wall clock in milliseconds
 */
export function s3Signer(key: AccessKey, region: string, source: string, now: () => number = Date.now): RequestSigner {
  // The key of a day is derived with four hashes; the cache keeps it.
  const cache = new Map<string, ArrayBuffer>();
  let cachedDay = "";
  return {
    source,
    async sign({ method, url, headers }) {
      const signed: Record<string, string> = { "x-amz-content-sha256": emptyDigest };
      for (const [name, value] of Object.entries(headers))
        if (/^(range|content-md5|x-amz-.*)$/i.test(name)) signed[name.toLowerCase()] = headerText(value);
      const datetime = new Date(now()).toISOString().replace(/[:-]|\.\d{3}/g, "");
      if (cachedDay !== datetime.slice(0, 8)) cache.clear();
      cachedDay = datetime.slice(0, 8);
      const signer = new AwsV4Signer({
        method,
        url: url.href,
        headers: signed,
        accessKeyId: key.id,
        secretAccessKey: key.secret,
        service: "s3",
        region,
        datetime,
        cache,
        allHeaders: true,
      });
      return {
        "x-amz-content-sha256": signed["x-amz-content-sha256"]!,
        "x-amz-date": datetime,
        authorization: await signer.authHeader(),
      };
    },
  };
}
