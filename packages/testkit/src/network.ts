import { run } from "./process.ts";
import type { Workspace } from "./workspace.ts";

export interface NetworkOptions {
  /** Both directions together pass this rate, by tc tbf; undefined: unlimited. */
  readonly megabitsPerSecond?: number;
}

/** A network namespace with only a loopback link, of the given rate. Registry, containerd and daemons run in it together. */
export interface Network {
  readonly name: string;
  /** The command line that runs `command` inside, in this mount namespace (unlike `ip netns exec`). */
  enter(command: string, args: readonly string[]): readonly string[];
  /** Changes the rate of the running link. */
  shape(options: NetworkOptions): Promise<void>;
  /** Bytes that passed the link since it was made. */
  bytes(): Promise<number>;
}

let count = 0;

/** Makes a namespace; the workspace removes it. Needs root. */
export async function createNetwork(workspace: Workspace, options: NetworkOptions = {}): Promise<Network> {
  const name = `nydus-${process.pid}-${++count}`;
  await run("ip", ["netns", "add", name]);
  workspace.defer(async () => {
    await run("ip", ["netns", "delete", name]);
  });
  const enter = (command: string, args: readonly string[]): readonly string[] => [
    "nsenter",
    `--net=/run/netns/${name}`,
    "--",
    command,
    ...args,
  ];
  const inside = async (...args: [string, ...string[]]): Promise<string> => {
    const [command, ...rest] = enter(args[0], args.slice(1));
    return (await run(command as string, rest)).stdout;
  };
  // 1,500-byte packets as on a wire; with the loopback's 64 KiB ones a token bucket is coarse.
  await inside("ip", "link", "set", "lo", "mtu", "1500", "up");
  const shape = async (wanted: NetworkOptions): Promise<void> => {
    await run("nsenter", [`--net=/run/netns/${name}`, "--", "tc", "qdisc", "del", "dev", "lo", "root"], { check: false });
    if (wanted.megabitsPerSecond === undefined) return;
    await inside(
      "tc",
      "qdisc",
      "add",
      "dev",
      "lo",
      "root",
      "tbf",
      "rate",
      `${wanted.megabitsPerSecond}mbit`,
      "burst",
      "128kb",
      "latency",
      "400ms",
    );
  };
  await shape(options);
  const bytes = async (): Promise<number> => {
    const [link] = JSON.parse(await inside("ip", "-j", "-s", "link", "show", "lo")) as { stats64: { rx: { bytes: number } } }[];
    return link?.stats64.rx.bytes ?? 0;
  };
  return { name, enter, shape, bytes };
}
