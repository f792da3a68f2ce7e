import protobuf from "protobufjs";
import type { Labels } from "../layers/labels.ts";
import type { Mount } from "../mounts/mount-list.ts";

// Our own text of containerd's public API. Source: spec/containerd.md 1.2; numbers and types are the protocol.
const SNAPSHOTS = `
syntax = "proto3";
package containerd.services.snapshots.v1;
message Timestamp { int64 seconds = 1; int32 nanos = 2; }
message FieldMask { repeated string paths = 1; }
message Empty {}
message Mount { string type = 1; string source = 2; string target = 3; repeated string options = 4; }
message CreateRequest { string snapshotter = 1; string key = 2; string parent = 3; map<string, string> labels = 4; }
message MountsReply { repeated Mount mounts = 1; }
message KeyRequest { string snapshotter = 1; string key = 2; }
message CommitRequest { string snapshotter = 1; string name = 2; string key = 3; map<string, string> labels = 4; string parent = 5; }
message Info {
  string name = 1;
  string parent = 2;
  int32 kind = 3;
  Timestamp created_at = 4;
  Timestamp updated_at = 5;
  map<string, string> labels = 6;
}
message InfoReply { Info info = 1; }
message UpdateRequest { string snapshotter = 1; Info info = 2; FieldMask update_mask = 3; }
message ListRequest { string snapshotter = 1; repeated string filters = 2; }
message ListReply { repeated Info info = 1; }
message UsageReply { int64 size = 1; int64 inodes = 2; }
message CleanupRequest { string snapshotter = 1; }
`;

export interface TimestampMessage {
  readonly seconds: number;
  readonly nanos: number;
}

export interface InfoMessage {
  readonly name: string;
  readonly parent: string;
  /** 1 view, 2 active, 3 committed. */
  readonly kind: number;
  readonly createdAt: TimestampMessage;
  readonly updatedAt: TimestampMessage;
  readonly labels: Labels;
}

export interface Messages {
  CreateRequest: { key: string; parent: string; labels: Labels };
  MountsReply: { mounts: readonly Mount[] };
  KeyRequest: { key: string };
  CommitRequest: { name: string; key: string; labels: Labels; parent: string };
  Empty: Record<string, never>;
  InfoReply: { info: InfoMessage };
  UpdateRequest: { info: InfoMessage | null; updateMask: { paths: readonly string[] } | null };
  ListRequest: { filters: readonly string[] };
  ListReply: { info: readonly InfoMessage[] };
  UsageReply: { size: number; inodes: number };
  CleanupRequest: Record<string, never>;
}

interface Method {
  readonly request: keyof Messages;
  readonly reply: keyof Messages;
  readonly stream: boolean;
}

/** The ten calls, one row each; server and test client derive from it. */
export const METHODS = {
  Prepare: { request: "CreateRequest", reply: "MountsReply", stream: false },
  View: { request: "CreateRequest", reply: "MountsReply", stream: false },
  Mounts: { request: "KeyRequest", reply: "MountsReply", stream: false },
  Commit: { request: "CommitRequest", reply: "Empty", stream: false },
  Remove: { request: "KeyRequest", reply: "Empty", stream: false },
  Stat: { request: "KeyRequest", reply: "InfoReply", stream: false },
  Update: { request: "UpdateRequest", reply: "InfoReply", stream: false },
  List: { request: "ListRequest", reply: "ListReply", stream: true },
  Usage: { request: "KeyRequest", reply: "UsageReply", stream: false },
  Cleanup: { request: "CleanupRequest", reply: "Empty", stream: false },
} as const satisfies Record<string, Method>;

export type MethodName = keyof typeof METHODS;
export type RequestOf<M extends MethodName> = Messages[(typeof METHODS)[M]["request"]];
export type ReplyOf<M extends MethodName> = Messages[(typeof METHODS)[M]["reply"]];

/** Encoder and decoder of the message types in one proto3 text. Decoding bytes that are no such message throws. */
export function messageCodec(text: string, packageName: string) {
  const root = protobuf.parse(text, { keepCase: false }).root.resolveAll();
  const types = new Map<string, protobuf.Type>();
  const type = (name: string): protobuf.Type => {
    let found = types.get(name);
    if (found === undefined) {
      found = root.lookupType(`${packageName}.${name}`);
      types.set(name, found);
    }
    return found;
  };
  return {
    encode: (name: string, value: object): Buffer => {
      const encoded = type(name).encode(type(name).fromObject(value)).finish();
      return Buffer.from(encoded.buffer, encoded.byteOffset, encoded.byteLength);
    },
    decode: (name: string, bytes: Uint8Array): unknown =>
      type(name).toObject(type(name).decode(bytes), { longs: Number, defaults: true, arrays: true, objects: true, bytes: Buffer }),
  };
}

const codec = messageCodec(SNAPSHOTS, "containerd.services.snapshots.v1");

/** gRPC definition of the service, in the form grpc-js takes for servers and clients. */
export const serviceDefinition = Object.fromEntries(
  Object.entries(METHODS).map(([name, method]: [string, Method]) => [
    name,
    {
      path: `/containerd.services.snapshots.v1.Snapshots/${name}`,
      requestStream: false as const,
      responseStream: method.stream,
      requestSerialize: (value: object) => codec.encode(method.request, value),
      requestDeserialize: (bytes: Buffer) => codec.decode(method.request, bytes),
      responseSerialize: (value: object) => codec.encode(method.reply, value),
      responseDeserialize: (bytes: Buffer) => codec.decode(method.reply, bytes),
    },
  ]),
);
