import { constants } from "node:os";

/** What a handler may return besides 0: errno values the protocol carries (positive here; the reply negates them). */
export const { EACCES, EEXIST, EINVAL, EIO, EISDIR, ENODATA, ENODEV, ENOENT, ENOSYS, ENOTDIR, ERANGE, EROFS } = constants.errno;
export const { EAGAIN, EINTR } = constants.errno;

/** The reply stands in the buffer and is to be written. */
export const answered = 0;
/** Somebody else answers this request later (`writeReply`). */
export const handedOver = -1;
