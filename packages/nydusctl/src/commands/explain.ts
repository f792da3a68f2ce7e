import { explanationSchema, NydusApiError, NydusdClient } from "@nydus-ts/nydus-api";
import type { Command } from "commander";
import { NydusctlError } from "../errors.ts";
import { callTimeoutMs } from "../limits.ts";
import { explanationText } from "../render/explanation.ts";
import { compact, type GlobalOptions, isRaw, type MainIo } from "./context.ts";

interface Options extends GlobalOptions {
  readonly systemSocket: string;
}

/** "Is my image lazy at all, and why not?" The snapshotter answers; nydusd knows no layers. */
export function addExplainCommand(program: Command, io: MainIo): void {
  program
    .command("explain")
    .description("how an image or a container is served, layer by layer: format, mode, reason, bytes that are here")
    .argument("<name>", "an image as it was pulled, a container's id, or the key of a snapshot")
    .option("--system-socket <path>", "system socket of containerd-nydus-grpc (`system.address`)", "/run/containerd-nydus/system.sock")
    .action(async (name: string, _options, command: Command) => {
      const { systemSocket, timeout } = command.optsWithGlobals<Options>();
      const text = await answerOf(systemSocket, name, timeout ?? callTimeoutMs);
      const parsed = explanationSchema.safeParse(parseJson(text));
      if (!parsed.success) throw new NydusctlError("CTL_ANSWER", `${systemSocket}: not the answer of a snapshotter that can explain`);
      io.writeOut(isRaw(command) ? compact(parsed.data) : explanationText(parsed.data));
    });
}

async function answerOf(socket: string, name: string, timeoutMs: number): Promise<string> {
  try {
    return (await new NydusdClient(socket, { timeoutMs }).raw("/api/v1/explain", { name })).text;
  } catch (error) {
    if (!(error instanceof NydusApiError)) throw error;
    const hint = error.code === "API_UNREACHABLE" ? "; set enable = true below [system] in the snapshotter's configuration" : "";
    throw new NydusctlError("CTL_ANSWER", `${error.daemonMessage ?? error.message}${hint}`, { cause: error });
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
