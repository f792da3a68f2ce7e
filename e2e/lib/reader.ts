import { writeFileSync } from "node:fs";
import { type Containerd, until } from "@nydus-ts/testkit";
import { loggedOutput } from "./stack.ts";

/**
 * Reads all of /data again and again and compares digests; says "failed" or "differs" when something is wrong, and "rounds N" when it
 * is told to stop.
 */
export const readerCommand: readonly string[] = [
  "/bin/sh",
  "-c",
  `n=0; first=; while [ ! -e /tmp/stop ]; do
     now=$(sha256sum /data/* /data/small/* 2>/tmp/errors | sha256sum) 
     grep -v 'Is a directory' /tmp/errors | grep . && echo "failed in round $n"
     [ -z "$first" ] && first=$now
     [ "$now" = "$first" ] || echo "differs in round $n"
     n=$((n+1)); echo round >/tmp/rounds
   done; echo "rounds $n"`,
];

/** Empties the page cache every few milliseconds while it lives, so that readers come to the daemon. */
export function withoutPageCache(): Disposable {
  const timer = setInterval(() => writeFileSync("/proc/sys/vm/drop_caches", "1"), 50);
  return { [Symbol.dispose]: () => clearInterval(timer) };
}

/** Waits for the reader's first whole round. */
export async function readerRuns(containerd: Containerd, containerId: string): Promise<void> {
  await until("the reader's first round", async () => {
    const answer = await containerd.cri.execSync(containerId, ["/bin/cat", "/tmp/rounds"]);
    return answer.exitCode === 0 || undefined;
  });
}

/** Stops the reader and returns all it said: only "rounds N" when nothing was wrong. */
export async function stopReader(containerd: Containerd, containerId: string, logFile: string): Promise<string> {
  await containerd.cri.execSync(containerId, ["/bin/sh", "-c", "echo x > /tmp/stop"]);
  await until("the reader to end", () => /rounds \d+/.test(loggedOutput(logFile)) || undefined);
  return loggedOutput(logFile);
}
