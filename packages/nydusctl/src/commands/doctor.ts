import type { Command } from "commander";
import { createColors } from "picocolors";
import { examine } from "../doctor/doctor.ts";
import type { Finding } from "../doctor/finding.ts";
import { type GlobalOptions, isRaw, type MainIo } from "./context.ts";

interface Options extends GlobalOptions {
  readonly containerdConfig: string;
  readonly containerdAddress: string;
  readonly snapshotterConfig: string;
  readonly address?: string;
  readonly root?: string;
  readonly name: string;
  readonly json?: boolean;
}

/** Calls `onBad` when something is wrong: exit code 1. */
export function addDoctorCommand(program: Command, io: MainIo, onBad: () => void): void {
  program
    .command("doctor")
    .description("looks for what is wrong with this machine's setup and says how to mend it; changes nothing")
    .argument("[references...]", "images or registry hosts that must be reachable")
    .option("--containerd-config <file>", "containerd's configuration", "/etc/containerd/config.toml")
    .option("--containerd-address <socket>", "containerd's socket", "/run/containerd/containerd.sock")
    .option("--snapshotter-config <file>", "the snapshotter's configuration", "/etc/nydus/config.toml")
    .option("--address <socket>", "the snapshotter's socket (default: from its configuration)")
    .option("--root <dir>", "the snapshotter's root (default: from its configuration)")
    .option("--name <name>", "name of the proxy plugin in containerd", "nydus")
    .option("--json", "findings as JSON")
    .action(async (references: string[], _options, command: Command) => {
      const options = command.optsWithGlobals<Options>();
      const findings = await examine({
        containerdConfig: options.containerdConfig,
        containerdAddress: options.containerdAddress,
        snapshotterConfig: options.snapshotterConfig,
        snapshotterAddress: options.address,
        root: options.root,
        snapshotterName: options.name,
        daemonSockets: options.sock === undefined ? [] : [options.sock],
        references,
      });
      const json = options.json === true || isRaw(command);
      io.writeOut(json ? `${JSON.stringify({ findings }, null, 2)}\n` : report(findings, io.isTerminal));
      if (findings.some((finding) => finding.status === "bad")) onBad();
    });
}

function report(findings: readonly Finding[], colour: boolean): string {
  const { green, yellow, red, bold } = createColors(colour);
  const marks = { ok: green("ok  "), warn: yellow("warn"), bad: red("BAD ") };
  const lines = findings.flatMap((finding) => [
    `${marks[finding.status]}  ${bold(finding.check.padEnd(12))} ${finding.text}`,
    ...(finding.fix ?? []).map((line) => `${" ".repeat(20)}${line}`),
  ]);
  const count = (status: Finding["status"]): number => findings.filter((finding) => finding.status === status).length;
  return `${lines.join("\n")}\n\n${count("bad")} wrong, ${count("warn")} to look at, ${count("ok")} in order\n`;
}
