import { NydusdClient } from "@nydus-ts/nydus-api";
import type { Command } from "commander";
import { NydusctlError } from "../errors.ts";
import { callTimeoutMs } from "../limits.ts";

export interface MainIo {
  writeOut(text: string): void;
  writeErr(text: string): void;
  /** Whether standard output is a terminal: only then there are colours. */
  readonly isTerminal: boolean;
  /** Ends `metrics --interval`. */
  readonly terminate: AbortSignal;
}

export interface GlobalOptions {
  readonly sock?: string;
  readonly raw?: boolean;
  readonly timeout?: number;
}

/** The client a command talks through. @throws NydusctlError CTL_USAGE without --sock */
export function clientOf(command: Command): NydusdClient {
  const { sock, timeout } = command.optsWithGlobals<GlobalOptions>();
  if (sock === undefined) throw new NydusctlError("CTL_USAGE", "--sock PATH is required: the API socket of nydusd");
  return new NydusdClient(sock, { timeoutMs: timeout ?? callTimeoutMs });
}

export const isRaw = (command: Command): boolean => command.optsWithGlobals<GlobalOptions>().raw === true;

/** JSON on one line, keys sorted at every level, as the original prints it. */
export function compact(value: unknown): string {
  return `${JSON.stringify(value, (_key, inner: unknown) =>
    typeof inner === "object" && inner !== null && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)))
      : inner,
  )}\n`;
}
