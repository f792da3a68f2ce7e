import { RegistryError } from "../errors.ts";

/** Who signs. Both empty: requests are not signed, for stores that let everybody read. */
export interface AccessKey {
  readonly id: string;
  readonly secret: string;
}

/** @throws RegistryError REGISTRY_CONFIG: one without the other */
export function hasKey({ id, secret }: AccessKey): boolean {
  if ((id === "") !== (secret === "")) {
    const [there, absent] = id === "" ? ["access_key_secret", "access_key_id"] : ["access_key_id", "access_key_secret"];
    throw new RegistryError("REGISTRY_CONFIG", `the object store has an ${there} and no ${absent}`, { hint: "give both, or neither" });
  }
  return id !== "";
}

/** The value of a header, as it is sent. */
export function headerText(value: string | readonly string[]): string {
  return typeof value === "string" ? value.trim() : value.map((one) => one.trim()).join(",");
}

/** A name as a part of a path, in the encoding that is signed: RFC 3986, slashes stay. */
export function encodeKey(key: string): string {
  return encodeURIComponent(key)
    .replaceAll("%2F", "/")
    .replace(/[!'()*]/g, (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`);
}
