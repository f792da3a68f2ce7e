import { randomBytes } from "node:crypto";
import { closeSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { addressOf } from "@nydus-ts/linux";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { FilePipe } from "../src/file-pipe.ts";
import { pipeBytes } from "../src/limits.ts";

const header = Buffer.alloc(64, "HEADER: ");
const headerBytes = 16;
const content = randomBytes(3 * pipeBytes + 1000);

/** A file of random bytes to take from, and a file in the place of the device, which shows what was sent. */
describe("data of files sent through a pipe", () => {
  let directory: string;
  let source: number;
  let target: number;
  let pipe: FilePipe;
  const sent = (): Buffer => readFileSync(join(directory, "target"));

  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), "file-pipe-"));
    writeFileSync(join(directory, "source"), content);
    source = openSync(join(directory, "source"), "r");
    target = openSync(join(directory, "target"), "w");
    pipe = new FilePipe();
  });
  afterEach(() => {
    pipe.close();
    closeSync(source);
    closeSync(target);
    rmSync(directory, { recursive: true });
  });

  const begin = (length: number, ranges: number): boolean => pipe.begin(addressOf(header), headerBytes, length, ranges);

  test("are header and ranges in their order, wherever in a page they begin", () => {
    const ranges = [
      [0, 4096],
      [2 * pipeBytes + 4095, 300_001],
      [17, 262_144],
    ] as const;
    expect(begin(4096 + 300_001 + 262_144, ranges.length)).toBe(true);
    for (const [offset, length] of ranges) expect(pipe.add(source, offset, length)).toBe(true);
    const expected = Buffer.concat([
      header.subarray(0, headerBytes),
      ...ranges.map(([offset, length]) => content.subarray(offset, offset + length)),
    ]);
    expect(pipe.send(target)).toBe(expected.length);
    expect(sent().equals(expected)).toBe(true);
  });

  test("that the pipe might not hold are refused before anything is in it", () => {
    expect(begin(pipeBytes, 1)).toBe(false);
    expect(begin(100, pipeBytes / 4096 / 2)).toBe(false);
    // The most that is accepted fits, also where every range begins and ends inside of a page.
    const length = pipeBytes - 3 * 4096;
    expect(begin(length, 1)).toBe(true);
    expect(pipe.add(source, 4095, length)).toBe(true);
    expect(pipe.send(target)).toBe(headerBytes + length);
  });

  test("that are not all there are given up, and nothing of them is in the next message", () => {
    expect(begin(8192, 1)).toBe(true);
    expect(pipe.add(source, content.length - 4096, 8192)).toBe(false);
    expect(pipe.add(source, 0, 4096)).toBe(false);
    expect(begin(4096, 1)).toBe(true);
    expect(pipe.add(source, 0, 4096)).toBe(true);
    expect(pipe.send(target)).toBe(headerBytes + 4096);
    expect(sent().subarray(headerBytes).equals(content.subarray(0, 4096))).toBe(true);
  });

  test("that were not taken are not in the next message, and no descriptor stays", () => {
    const descriptors = (): number => readdirSync("/proc/self/fd").length;
    const before = descriptors();
    for (let round = 0; round < 3; round++) {
      expect(begin(4096, 1)).toBe(true);
      expect(pipe.add(source, 0, 4096)).toBe(true);
      expect(pipe.send(source)).toBe(-1); // not open for writing
    }
    expect(begin(5, 1)).toBe(true);
    expect(pipe.add(source, 5, 5)).toBe(true);
    expect(pipe.send(target)).toBe(headerBytes + 5);
    expect(sent().subarray(headerBytes).equals(content.subarray(5, 10))).toBe(true);
    pipe.close();
    pipe.close();
    expect(descriptors()).toBe(before);
  });
});
