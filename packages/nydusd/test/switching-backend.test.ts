import type { BlobBackend } from "@nydus-ts/chunk-store";
import { expect, test } from "vitest";
import { SwitchingBackend } from "../src/images/switching-backend.ts";

const range = { offset: 0, length: 1 };
const options = { deadlineMs: 1000, priority: "demand" as const };

function member(name: string, works: () => boolean, asked: string[]): BlobBackend {
  return {
    kind: "test",
    async read() {
      asked.push(name);
      if (!works()) throw new Error(`${name} refused`);
      return Buffer.from(name);
    },
    size: async () => 1,
    async [Symbol.asyncDispose]() {},
  };
}

test("when the credentials of one image stop working, its blob is fetched through the other image's, which then goes first", async () => {
  const asked: string[] = [];
  let works = true;
  const backend = new SwitchingBackend();
  backend.add(member("old", () => true, asked));
  backend.add(member("new", () => works, asked));
  expect(Buffer.from(await backend.read("b", range, options)).toString()).toBe("new");
  works = false;
  expect(Buffer.from(await backend.read("b", range, options)).toString()).toBe("old");
  expect(Buffer.from(await backend.read("b", range, options)).toString()).toBe("old");
  expect(asked).toEqual(["new", "new", "old", "old"]);
});

test("the last failure is the answer, and without members the unmount is named", async () => {
  const backend = new SwitchingBackend();
  await expect(backend.read("b", range, options)).rejects.toMatchObject({ code: "MOUNT_BACKEND" });
  const broken = member("only", () => false, []);
  backend.add(broken);
  backend.add(broken);
  backend.remove(broken);
  await expect(backend.read("b", range, options)).rejects.toThrow("only refused");
});

test("memory that a back end failed with is not offered to the next: the first may still write there", async () => {
  const offered: (Uint8Array | undefined)[] = [];
  const backend = new SwitchingBackend();
  for (const works of [true, false]) {
    const one = member("any", () => works, []);
    const read: BlobBackend["read"] = (...parameters) => {
      offered.push(parameters[2].into);
      return one.read(...parameters);
    };
    backend.add({ ...one, read });
  }
  const into = new Uint8Array(1);
  await backend.read("b", range, { ...options, into });
  expect(offered).toEqual([into, undefined]);
});

test("two images with one back end are asked once", async () => {
  const asked: string[] = [];
  const backend = new SwitchingBackend();
  const shared = member("shared", () => false, asked);
  backend.add(shared);
  backend.add(shared);
  await expect(backend.read("b", range, options)).rejects.toThrow();
  expect(asked).toEqual(["shared"]);
});
