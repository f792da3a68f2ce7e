/** Cuts a gzip file into the contexts that an image records: places from which some chunks can be inflated. Source: spec/nydus-image.md, section 6.4 */
import { BuilderError } from "../errors.ts";
import type { GzipReader, ResumePoint } from "./gzip-reader.ts";
import { contextInputBytesMax, contextInputBytesMin, contextOutputBytesMax, contextOutputBytesRefused } from "./limits.ts";

export interface ZranContext extends ResumePoint {
  readonly dictionarySize: number;
  /** bytes of the gzip file, and what they inflate to, up to the end of the last chunk */
  inLength: number;
  outLength: number;
}

/** Where a chunk is found. */
export interface ZranChunk {
  /** index of its context */
  context: number;
  /** its start in what the context inflates to */
  offset: number;
  /** the bytes of the gzip file that were used for it */
  compressedOffset: number;
  compressedSize: number;
}

export class ContextCutter {
  readonly contexts: ZranContext[] = [];
  readonly #reader: GzipReader;
  readonly #keep: (dictionary: Uint8Array) => void;
  #chunkOut = 0;
  #chunkIn = 0;

  /** @param keep  takes the dictionary of each context, in order */
  constructor(reader: GzipReader, keep: (dictionary: Uint8Array) => void) {
    this.#reader = reader;
    this.#keep = keep;
  }

  /** Before each chunk is read. `chunkSize` is the size of full chunks, also before a short one. */
  startChunk(chunkSize: number): void {
    const { resume, inPosition, position } = this.#reader;
    const current = this.contexts.at(-1);
    if (!current || this.#isEnough(current, chunkSize)) {
      const dictionary = this.#reader.resumeDictionary();
      this.#keep(dictionary);
      this.contexts.push({ ...resume, dictionarySize: dictionary.length, inLength: 0, outLength: 0 });
    }
    this.#chunkIn = inPosition;
    this.#chunkOut = position;
  }

  #isEnough(context: ZranContext, chunkSize: number): boolean {
    const { resume, inPosition, position } = this.#reader;
    // There must be a later place to start from, or nothing is gained.
    if (resume.inPosition === context.inPosition) return false;
    const input = inPosition - context.inPosition;
    if (input >= contextInputBytesMax / 2 || position - context.outPosition + chunkSize >= contextOutputBytesMax) return true;
    return input > 2 * context.inLength && context.inLength > contextInputBytesMin;
  }

  /** After the chunk was read. @throws BuilderError BUILD_LIMIT: one context would inflate to more than readers hold in memory */
  finishChunk(): ZranChunk {
    const { inPosition, position } = this.#reader;
    const index = this.contexts.length - 1;
    const context = this.contexts[index];
    context.outLength = position - context.outPosition;
    context.inLength = inPosition - context.inPosition;
    if (context.outLength > contextOutputBytesRefused) {
      throw new BuilderError(
        "BUILD_LIMIT",
        `a deflate block inflates to more than ${contextOutputBytesRefused} bytes, which can not be read at random: build with --type targz-rafs`,
      );
    }
    return {
      context: index,
      offset: this.#chunkOut - context.outPosition,
      compressedOffset: this.#chunkIn,
      compressedSize: inPosition - this.#chunkIn,
    };
  }
}
