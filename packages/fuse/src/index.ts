export {
  abortConnection,
  cloneDevice,
  type FuseMount,
  type MountFuseOptions,
  mountFuse,
  notifyInvalidEntry,
  notifyInvalidInode,
  notifyResend,
  unmountFuse,
} from "./connection.ts";
export {
  answered,
  EACCES,
  EEXIST,
  EINTR,
  EINVAL,
  EIO,
  EISDIR,
  ENODATA,
  ENOENT,
  ENOSYS,
  ENOTDIR,
  ERANGE,
  EROFS,
  handedOver,
} from "./errno.ts";
export type { Negotiated } from "./init.ts";
export { foreverSeconds, readBytesMax, replyBytesMax } from "./limits.ts";
export { type Opcode, opcodes } from "./opcodes.ts";
export { Attributes, FuseReply } from "./reply.ts";
export { FuseRequest, formatRequest } from "./request.ts";
export { type FuseFileSystem, type ServeOptions, serve } from "./serve.ts";
export { initFlags } from "./structs.ts";
export { type CurrentRequest, WorkerTable } from "./worker-table.ts";
