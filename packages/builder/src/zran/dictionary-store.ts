/**
 * The dictionaries of a layer's contexts, one behind the other: 32 KiB for each MiB or so of the layer. The first are kept in memory; from
 * `dictionaryBytesKept` on all go to a temporary file, so that memory does not grow with the layer.
 */
import { dictionaryBytesKept } from "./limits.ts";
import { TemporaryFile } from "./temporary-file.ts";

export class DictionaryStore implements Disposable {
  /** bytes of all dictionaries */
  size = 0;
  readonly #directory: string;
  #kept: Uint8Array[] = [];
  #keptBytes = 0;
  #file: TemporaryFile | undefined;

  /** @param directory  where a temporary file may be made */
  constructor(directory: string) {
    this.#directory = directory;
  }

  /** True if they are in a file. */
  get isSpilled(): boolean {
    return this.#file !== undefined;
  }

  /** The bytes are not copied, and must stay as they are. @throws BuilderError BUILD_OUTPUT */
  add(dictionary: Uint8Array): void {
    this.#kept.push(dictionary);
    this.#keptBytes += dictionary.length;
    this.size += dictionary.length;
    if (this.#keptBytes < dictionaryBytesKept) return;
    this.#file ??= new TemporaryFile(this.#directory);
    for (const each of this.#kept) this.#file.append(each);
    this.#kept = [];
    this.#keptBytes = 0;
  }

  /** In order; a piece is valid until the next is asked for. */
  *pieces(): Generator<Uint8Array> {
    if (this.#file) yield* this.#file.pieces(this.#file.size);
    yield* this.#kept;
  }

  [Symbol.dispose](): void {
    this.#file?.[Symbol.dispose]();
  }
}
