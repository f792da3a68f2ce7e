import koffi from "koffi";

// listxattr(2), getxattr(2): the forms that do not follow symbolic links. Called on libuv's threads, so that a file system served by
// this process can answer. testkit has its own binding: listings judge the product, so they share no code with it.
const libc = koffi.load("libc.so.6");
const llistxattr = libc.func("intptr_t llistxattr(const uint8_t *path, _Out_ uint8_t *list, size_t size)");
const lgetxattr = libc.func("intptr_t lgetxattr(const uint8_t *path, const uint8_t *name, _Out_ uint8_t *value, size_t size)");

/** Linux's own bound for a list of names and for one value (XATTR_LIST_MAX, XATTR_SIZE_MAX). */
const xattrBytesMax = 65_536;

/** Extended attributes of a path, name to base64 of the value; empty where the file system has none. */
export async function readXattrs(path: Uint8Array): Promise<Record<string, string>> {
  const zeroTerminated = Buffer.concat([path, Buffer.from([0])]);
  const list = Buffer.alloc(xattrBytesMax);
  const length = await call(llistxattr, zeroTerminated, list, list.length);
  if (length <= 0) return {};
  const names = list
    .subarray(0, length - 1)
    .toString("latin1")
    .split("\0")
    .sort();
  const result: Record<string, string> = {};
  for (const name of names) {
    const value = Buffer.alloc(xattrBytesMax);
    const size = await call(lgetxattr, zeroTerminated, Buffer.from(`${name}\0`, "latin1"), value, value.length);
    if (size < 0) throw new Error(`xattr ${name} is listed for ${Buffer.from(path).toString()} but can not be read`);
    result[name] = value.subarray(0, size).toString("base64");
  }
  return result;
}

const call = (func: typeof llistxattr, ...args: unknown[]): Promise<number> =>
  new Promise((resolve, reject) => {
    func.async(...args, (error: Error | null, result: number) => (error === null ? resolve(Number(result)) : reject(error)));
  });
