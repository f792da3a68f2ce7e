import { describe, expect, test } from "vitest";
import { ossSigner } from "../../src/object-store/oss-signer.ts";
import { s3Signer } from "../../src/object-store/s3-signer.ts";

/*
 * The worked examples of the Amazon S3 API reference, "Signature Calculations for the Authorization Header: Transferring Payload in a
 * Single Chunk (AWS Signature Version 4)", and of the Alibaba Cloud OSS API reference, "Include signatures in the Authorization header".
 */
const example = { id: "AKIAIOSFODNN7EXAMPLE", secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY" };
const emptyDigest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

describe("AWS signature version 4 is that of Amazon's own examples", () => {
  const signer = s3Signer(example, "us-east-1", "the test", () => Date.parse("2013-05-24T00:00:00Z"));
  test.each([
    [
      "GET of a range",
      { method: "GET", url: "/test.txt", headers: { range: "bytes=0-9", "user-agent": "not signed" } },
      "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
    ],
    [
      "GET with a name alone as its query",
      { method: "GET", url: "/?lifecycle", headers: {} },
      "SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature=fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
    ],
    [
      "GET with a query out of order",
      { method: "GET", url: "/?prefix=J&max-keys=2", headers: {} },
      "SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature=34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
    ],
  ])("%s", async (_, { method, url, headers }, end) => {
    const signed = await signer.sign({ method, url: new URL(url, "https://examplebucket.s3.amazonaws.com"), headers });
    expect(signed).toEqual({
      "x-amz-date": "20130524T000000Z",
      "x-amz-content-sha256": emptyDigest,
      authorization: `AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, ${end}`,
    });
  });
});

test("the OSS signature is that of Alibaba's own example", async () => {
  const key = { id: "44CF9590006BF252F707", secret: "OtxrzxIsfpFjA7SwPzILwy8Bw21TLhquhboDYROV" };
  const signer = ossSigner(
    key,
    ({ pathname }) => `oss-example${pathname}`,
    "the test",
    () => Date.parse("2005-11-17T18:49:58Z"),
  );
  const signed = await signer.sign({
    method: "PUT",
    url: new URL("https://oss-example.oss-cn-hangzhou.aliyuncs.com/nelson"),
    headers: {
      "Content-MD5": "ODBGOERFMDMzQTczRUY3NUE3NzA5QzdFNUYzMDQxNEM=",
      "Content-Type": "text/html",
      "X-OSS-Meta-Author": "foo@bar.com",
      "X-OSS-Magic": "abracadabra",
    },
  });
  expect(signed).toEqual({ date: "Thu, 17 Nov 2005 18:49:58 GMT", authorization: "OSS 44CF9590006BF252F707:26NBxoKdsyly4EDv6inkoDft/yA=" });
});
