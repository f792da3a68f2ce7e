import { RegistryError } from "./errors.ts";

/** A name of an image. `host` is the registry's own (`docker.io`, not the server that answers for it). */
export interface Reference {
  readonly host: string;
  readonly repository: string;
  readonly tag?: string;
  readonly digest?: string;
  /** `host/repository[:tag][@digest]`; `:latest` if neither was given. */
  readonly normalized: string;
}

const COMPONENT = "[a-z0-9]+(?:(?:\\.|_|__|-+)[a-z0-9]+)*";
const REPOSITORY = new RegExp(`^${COMPONENT}(?:/${COMPONENT})*$`);
const HOST = /^(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[0-9a-fA-F:]+\])(?::\d{1,5})?$/;
const TAG = /^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$/;
const DIGEST = /^(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$/;

/**
 * Parses a reference as docker and containerd's CRI do: `alpine` is `docker.io/library/alpine:latest`.
 *
 * @throws RegistryError REGISTRY_REFERENCE
 * Source: distribution/reference grammar
 */
export function parseReference(text: string): Reference {
  const refuse = (why: string): never => {
    throw new RegistryError("REGISTRY_REFERENCE", `${JSON.stringify(text.slice(0, 300))} is not an image reference: ${why}`, {
      hint: "expected HOST[:PORT]/REPOSITORY[:TAG][@sha256:DIGEST]",
    });
  };
  let rest = text;
  let digest: string | undefined;
  let tag: string | undefined;
  const at = rest.indexOf("@");
  if (at >= 0) {
    digest = rest.slice(at + 1);
    rest = rest.slice(0, at);
    if (!DIGEST.test(digest)) refuse("the digest after @ is not sha256:<64 lower-case hex digits>");
  }
  const colon = rest.lastIndexOf(":");
  if (colon > rest.lastIndexOf("/")) {
    tag = rest.slice(colon + 1);
    rest = rest.slice(0, colon);
    if (!TAG.test(tag)) refuse("the tag has other characters than letters, digits, '_', '.', '-' or more than 128");
  }
  const slash = rest.indexOf("/");
  const first = slash < 0 ? "" : rest.slice(0, slash);
  const named = first !== "" && (first.includes(".") || first.includes(":") || first === "localhost" || first !== first.toLowerCase());
  let host = named ? first : "docker.io";
  let repository = named ? rest.slice(slash + 1) : rest;
  if (host === "index.docker.io" || host === "registry-1.docker.io") host = "docker.io";
  if (host === "docker.io" && !repository.includes("/")) repository = `library/${repository}`;
  if (!HOST.test(host)) refuse(`${JSON.stringify(host)} is not a host name`);
  if (repository.length > 255) refuse("the repository is longer than 255 characters");
  if (!REPOSITORY.test(repository)) refuse("the repository must be lower-case words joined by '/', '.', '_' or '-'");
  if (tag === undefined && digest === undefined) tag = "latest";
  return {
    host,
    repository,
    ...(tag === undefined ? {} : { tag }),
    ...(digest === undefined ? {} : { digest }),
    normalized: `${host}/${repository}${tag === undefined ? "" : `:${tag}`}${digest === undefined ? "" : `@${digest}`}`,
  };
}

/** The server behind a registry's name: Docker Hub's API lives elsewhere. */
export function serverOf(host: string): string {
  return host === "docker.io" || host === "index.docker.io" ? "registry-1.docker.io" : host;
}

/** @throws RegistryError REGISTRY_REFERENCE */
export function checkDigest(digest: string): string {
  if (DIGEST.test(digest)) return digest;
  throw new RegistryError("REGISTRY_REFERENCE", `${JSON.stringify(digest.slice(0, 200))} is not a digest`, {
    hint: "expected sha256:<64 lower-case hex digits>",
  });
}
