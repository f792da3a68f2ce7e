import { addressOf } from "@nydus-ts/linux";
import { requestBytesMax } from "./limits.ts";
import { opcodes } from "./opcodes.ts";
import { IN_HEADER, INIT_IN, INTERRUPT_IN, READ_IN, XATTR_IN } from "./structs.ts";

/**
 * One request, decoded in place from a buffer that lives as long as its worker. `accept` sets the fields all requests have; the getters
 * read what only some have. 64-bit ids come as two halves, since a node id uses all of its bits.
 */
export class FuseRequest {
  readonly bytes: Uint8Array;
  readonly address: number;
  readonly view: DataView;
  /** Bytes the kernel delivered. */
  length = 0;
  opcode = 0;
  nodeLo = 0;
  nodeHi = 0;
  uniqueLo = 0;
  uniqueHi = 0;

  constructor(bytes: Uint8Array = new Uint8Array(requestBytesMax)) {
    this.bytes = bytes;
    this.address = addressOf(bytes);
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** Decodes the header of the `length` bytes in the buffer; false when they are no whole request. */
  accept(length: number): boolean {
    const view = this.view;
    this.length = length;
    if (length < IN_HEADER.size || view.getUint32(IN_HEADER.length, true) !== length) return false;
    this.opcode = view.getUint32(IN_HEADER.opcode, true);
    this.uniqueLo = view.getUint32(IN_HEADER.unique, true);
    this.uniqueHi = view.getUint32(IN_HEADER.unique + 4, true);
    this.nodeLo = view.getUint32(IN_HEADER.node, true);
    this.nodeHi = view.getUint32(IN_HEADER.node + 4, true);
    return true;
  }

  get pid(): number {
    return this.view.getUint32(IN_HEADER.pid, true);
  }
  /** READ, READDIR, READDIRPLUS: byte offset or directory cookie. */
  get offset(): number {
    return this.view.getUint32(READ_IN.offset, true) + this.view.getUint32(READ_IN.offset + 4, true) * 4294967296;
  }
  /** READ, READDIR, READDIRPLUS: bytes wanted at most. */
  get size(): number {
    return this.view.getUint32(READ_IN.length, true);
  }
  /** GETXATTR, LISTXATTR: bytes of room; 0 asks for the size. */
  get xattrRoom(): number {
    return this.view.getUint32(XATTR_IN.length, true);
  }
  /** LOOKUP: the name is [nameStart, nameEnd) of `bytes`. */
  get nameStart(): number {
    return IN_HEADER.size;
  }
  get nameEnd(): number {
    return this.length - 1; // the terminating zero
  }
  /** GETXATTR: the name is [xattrNameStart, nameEnd) of `bytes`. */
  get xattrNameStart(): number {
    return IN_HEADER.size + XATTR_IN.size;
  }
  get interruptedLo(): number {
    return this.view.getUint32(INTERRUPT_IN.unique, true);
  }
  get interruptedHi(): number {
    return this.view.getUint32(INTERRUPT_IN.unique + 4, true);
  }
}

/** The request as one line of a trace: `READ unique=42 node=0x100000000000007 pid=1 [0..131072)`. */
export function formatRequest(request: FuseRequest): string {
  const opcode = opcodes[request.opcode];
  const node = (BigInt(request.nodeHi) << 32n) | BigInt(request.nodeLo);
  const unique = (BigInt(request.uniqueHi) << 32n) | BigInt(request.uniqueLo);
  const name = (start: number): string =>
    JSON.stringify(Buffer.from(request.bytes.subarray(start, Math.max(start, request.nameEnd))).toString());
  const detail = {
    none: () => "",
    name: () => ` ${name(request.nameStart)}`,
    range: () => ` [${request.offset}..${request.offset + request.size})`,
    size: () => ` room=${request.xattrRoom}`,
    sizeName: () => ` room=${request.xattrRoom} ${name(request.xattrNameStart)}`,
    unique: () => ` of=${(BigInt(request.interruptedHi) << 32n) | BigInt(request.interruptedLo)}`,
    init: () => ` ${request.view.getUint32(INIT_IN.major, true)}.${request.view.getUint32(INIT_IN.minor, true)}`,
  }[opcode?.trace ?? "none"]();
  return `${opcode?.name ?? `OPCODE_${request.opcode}`} unique=${unique} node=0x${node.toString(16)} pid=${request.pid}${detail}`;
}
