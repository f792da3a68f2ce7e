import { run, startSnapshotter, Workspace } from "@nydus-ts/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { buildSuite } from "./lib/go.ts";

const names = [
  "Basic",
  "StatActive",
  "StatComitted",
  "TransitivityTest",
  "PreareViewFailingtest",
  "Update",
  "Remove",
  "Walk",
  "LayerFileupdate",
  "RemoveDirectoryInLowerLayer",
  "Chown",
  "DirectoryPermissionOnCommit",
  "RemoveIntermediateSnapshot",
  "DeletedFilesInChildSnapshot",
  "MoveFileFromLowerLayer",
  "ViewReadonly",
  "StatInWalk",
  "CloseTwice",
  "RootPermission",
  "Rename",
  "128LayersMount",
];

const built = await buildSuite();
if ("skip" in built) console.log(`containerd's snapshotter test suite is skipped: ${built.skip}`);

describe.skipIf("skip" in built)("containerd's own snapshotter test suite", () => {
  let workspace: Workspace;
  let output: string;

  beforeAll(async () => {
    workspace = new Workspace("nydus-suite");
    const snapshotter = await startSnapshotter(workspace);
    // One after the other: between two tests everything is removed.
    const args = ["-test.v", "-test.parallel", "1"];
    const env = { NYDUS_SOCKET: snapshotter.socket, TMPDIR: workspace.directory };
    output = (await run((built as { path: string }).path, args, { env, check: false, deadlineMs: 280_000 })).stdout;
  });
  afterAll(() => workspace[Symbol.asyncDispose]());

  test.each(names)("passes %s", (name) => {
    const passed = output.includes(`--- PASS: TestSnapshotter/${name} `);
    expect(passed ? "" : linesAbout(output, name)).toBe("");
  });

  test("has no test this list does not know", () => {
    const found = [...output.matchAll(/--- (?:PASS|FAIL|SKIP): TestSnapshotter\/(\S+) /g)].map((match) => match[1]);
    expect(found.toSorted()).toEqual(names.toSorted());
  });
});

/** What the suite said in this test, without its protocol of mounts. */
function linesAbout(text: string, name: string): string {
  const lines = text.split("\n");
  let current = "";
  const wanted = lines.filter((line) => {
    current = /=== (?:RUN|CONT|NAME)\s+TestSnapshotter\/(\S+)/.exec(line)?.[1] ?? current;
    return current === name && !/: (un)?mount /.test(line);
  });
  return wanted.length > 0 ? wanted.join("\n") : `not run; the output ends with:\n${lines.slice(-20).join("\n")}`;
}
