import { createHash } from "node:crypto";
import { z } from "zod";
import type { EngineState } from "../engines/engine.ts";
import { NydusdError } from "../errors.ts";
import { stateBytesMax } from "../limits.ts";

/*
 * What a daemon leaves with its supervisor, so that a successor serves the same kernel mount.
 *
 *   0   8  "NYDUS-TS"
 *   8   4  version, little-endian
 *   12  4  length of the JSON
 *   16  32 sha256 of the JSON
 *   48     JSON (SavedState); zeros may follow
 *
 * Our own form: spec/nydusd.md 8.2 describes the original's, whose 32 KiB are too few for many images.
 */
const magic = Buffer.from("NYDUS-TS");
const version = 1;
const headerBytes = 48;

const savedStateSchema = z.object({
  /** Mount commands in the order they were given; the configuration text with its secrets, since the successor needs them. */
  mounts: z.array(
    z.object({
      mountpoint: z.string(),
      vfsIndex: z.number().int().min(1).max(255),
      source: z.string(),
      config: z.string(),
      prefetchFiles: z.array(z.string()).optional(),
      /** Credentials set by the API since the mount. */
      registryAuth: z.string().optional(),
      mountedTime: z.string(),
    }),
  ),
  engine: z.object({
    fuseConnectionId: z.number(),
    initFlags: z.string(),
    pseudoInodes: z.array(z.object({ path: z.string(), ino: z.number() })),
    mounts: z.array(z.object({ mountpoint: z.string(), vfsIndex: z.number() })),
  }),
});
type Parsed = z.output<typeof savedStateSchema>;
export type SavedState = Omit<Parsed, "engine"> & { readonly engine: EngineState };

export function encodeState(state: SavedState): Buffer {
  const json = Buffer.from(JSON.stringify(state));
  if (headerBytes + json.length > stateBytesMax)
    throw new NydusdError("SUPERVISOR", `the state of ${json.length} bytes is too large to be saved`);
  const bytes = Buffer.alloc(headerBytes + json.length);
  magic.copy(bytes);
  bytes.writeUInt32LE(version, 8);
  bytes.writeUInt32LE(json.length, 12);
  createHash("sha256").update(json).digest().copy(bytes, 16);
  json.copy(bytes, headerBytes);
  return bytes;
}

/** @throws NydusdError TAKEOVER_STATE when the bytes are of another program, another version, cut short or damaged */
export function decodeState(bytes: Uint8Array): SavedState {
  const refuse = (fault: string): never => {
    throw new NydusdError("TAKEOVER_STATE", `the state from the supervisor is unusable: ${fault}; unmount and start afresh`);
  };
  const state = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (state.length < headerBytes || !state.subarray(0, 8).equals(magic))
    return refuse(`${state.length} bytes that this version did not write`);
  if (state.readUInt32LE(8) !== version) return refuse(`its version is ${state.readUInt32LE(8)}, this daemon knows ${version}`);
  const length = state.readUInt32LE(12);
  if (headerBytes + length > state.length) return refuse(`${state.length} bytes of ${headerBytes + length} arrived`);
  const json = state.subarray(headerBytes, headerBytes + length);
  if (!createHash("sha256").update(json).digest().equals(state.subarray(16, 48))) return refuse("its checksum does not match");
  const result = savedStateSchema.safeParse(JSON.parse(json.toString("utf8")));
  return result.data ?? refuse(result.error?.issues.map((issue) => `${issue.path.join(".")}: ${issue.message}`).join("; ") ?? "");
}
