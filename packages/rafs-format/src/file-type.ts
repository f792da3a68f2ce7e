import { type FileType, modeTypeMask, modeTypes } from "./constants.ts";
import { RafsError } from "./errors.ts";

const byMode = new Map<number, FileType>(Object.entries(modeTypes).map(([type, mode]) => [mode, type as FileType]));

/** Type of an inode by its mode. @throws RafsError RAFS_INODE when the type bits mean nothing */
export function fileTypeOf(mode: number): FileType {
  const type = byMode.get(mode & modeTypeMask);
  if (type === undefined) throw new RafsError("RAFS_INODE", `mode 0${mode.toString(8)} names no file type`);
  return type;
}
