import { type HostConfig, originHost } from "@nydus-ts/mirror-config";
import { RegistryError } from "../errors.ts";
import type { RequestSigner } from "../request-signer.ts";
import type { StatusHints } from "../status.ts";
import { type AccessKey, encodeKey, hasKey } from "./keys.ts";
import { ossSigner } from "./oss-signer.ts";
import { s3Signer } from "./s3-signer.ts";

/** What holds blobs under their ids and speaks plain HTTP. */
export type ObjectStoreAddress =
  | {
      readonly kind: "s3";
      /** `host[:port]`; empty: `s3.amazonaws.com`. */
      readonly endpoint: string;
      readonly region: string;
      readonly bucket: string;
      readonly scheme: "http" | "https";
      readonly key: AccessKey;
    }
  | { readonly kind: "oss"; readonly endpoint: string; readonly bucket: string; readonly scheme: "http" | "https"; readonly key: AccessKey }
  /** `address`: a URL, below which `path` leads to the blobs; or the path of a unix socket that serves one blob. */
  | { readonly kind: "http-proxy"; readonly address: string; readonly path: string };

/** Where requests go and how they are signed. */
export interface ObjectStorePlace {
  readonly origin: HostConfig;
  readonly signer: RequestSigner | undefined;
  readonly hints: StatusHints;
  /** As messages call it: `oss://bucket`. */
  readonly name: string;
  readonly socketPath?: string;
}

/**
 * @throws RegistryError REGISTRY_CONFIG
 * Source: spec/nydusd.md 13.3, 13.4
 */
export function objectStorePlace(
  address: ObjectStoreAddress,
  tls: Pick<HostConfig, "caFiles" | "skipVerify">,
  now?: () => number,
): ObjectStorePlace {
  if (address.kind === "http-proxy") return plainPlace(address, tls);
  const { kind, bucket, key, scheme } = address;
  const given = address.endpoint.replace(/\/+$/, "");
  const endpoint = kind === "s3" && given === "" ? "s3.amazonaws.com" : given;
  const url = URL.parse(`${scheme}://${endpoint}`);
  if (url === null || url.pathname !== "/" || url.search !== "" || url.username !== "" || endpoint.includes("@"))
    throw new RegistryError("REGISTRY_CONFIG", `the endpoint of ${kind} must be a host, or a host and a port`);
  // What OSS and S3 allow; also what keeps a bucket one part of a host or path.
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]{1,254}$/.test(bucket) || bucket.includes(".."))
    throw new RegistryError("REGISTRY_CONFIG", `the bucket_name of ${kind} is no name of a bucket: ${JSON.stringify(bucket.slice(0, 80))}`);
  const signed = hasKey(key);
  const source = "access_key_id of the configuration";
  const name = `${kind}://${bucket}`;
  const hints = hintsOf(name, signed);
  if (kind === "s3") {
    const origin = originHost(url.host, scheme, { ...tls, basePath: `/${bucket}` });
    return { origin, name, hints, signer: signed ? s3Signer(key, address.region, source, now) : undefined };
  }
  // A bucket is a name below the endpoint's, which an address can not have: those are asked by path, as OSS's own clients do.
  const byPath = /^(\[.*\]|[0-9.]+)$/.test(url.hostname);
  const origin = originHost(byPath ? url.host : `${bucket}.${url.host}`, scheme, { ...tls, basePath: byPath ? `/${bucket}` : "" });
  const object = ({ pathname }: URL): string => decodeURIComponent(byPath ? pathname.slice(1) : `${bucket}${pathname}`);
  return { origin, name, hints, signer: signed ? ossSigner(key, object, source, now) : undefined };
}

function plainPlace(
  { address, path }: { readonly address: string; readonly path: string },
  tls: Pick<HostConfig, "caFiles" | "skipVerify">,
): ObjectStorePlace {
  const hints = { 401: "the server wants a login, which this back end has not", 404: "check `addr` and `path` of the back end" };
  if (address.startsWith("/"))
    return { origin: originHost("localhost", "http", { basePath: "" }), signer: undefined, hints, name: address, socketPath: address };
  const url = URL.parse(address);
  if (url === null || (url.protocol !== "http:" && url.protocol !== "https:"))
    throw new RegistryError("REGISTRY_CONFIG", "addr of http-proxy must be an http:// or https:// URL, or the path of a unix socket");
  const base = [url.pathname, path].flatMap((part) => part.split("/")).filter((part) => part !== "");
  if (base.includes("..") || base.includes(".")) throw new RegistryError("REGISTRY_CONFIG", "path of http-proxy leads upwards");
  const headers =
    url.username === ""
      ? {}
      : {
          authorization: [
            `Basic ${Buffer.from(`${decodeURIComponent(url.username)}:${decodeURIComponent(url.password)}`).toString("base64")}`,
          ],
        };
  const origin = originHost(url.host, url.protocol === "http:" ? "http" : "https", {
    ...tls,
    headers,
    basePath: base.map((part) => `/${encodeKey(decodeURIComponent(part))}`).join(""),
  });
  return { origin, signer: undefined, hints, name: `${url.protocol}//${url.host}` };
}

function hintsOf(name: string, signed: boolean): StatusHints {
  const key = signed ? "the key of access_key_id" : "a request without access_key_id";
  return {
    300: `${name} is kept by another endpoint: set \`endpoint\` (and \`region\`) to the bucket's own`,
    400: "check `endpoint`, `region` and `bucket_name` of the back end",
    401: `${key} is not let in`,
    403: `${key} may not do this to ${name}, or the secret or the machine's clock is wrong`,
    404: "check `bucket_name` and `object_prefix` of the back end",
    429: "the object store limits requests",
  };
}
