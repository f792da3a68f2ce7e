/** The commands of `inspect` over one image: text for a person, a value for a program. Source: spec/nydus-image.md, section 13.2 */
import { type BlobRecord, EXTENDED_SUPERBLOCK, extendedSuperblockOffset, type Inode, SUPERBLOCK_V5 } from "@nydus-ts/rafs-format";
import { type BootstrapFile, compressedDataSize, mappedBlock, storedBlobId } from "./bootstrap-file.ts";
import { blobFeatureNames, hex, quoteBytes, superFlagNames } from "./text.ts";

export interface Answer {
  text: string;
  json?: unknown;
}

interface Command {
  /** whether an argument must follow */
  argument: boolean;
  run(argument: string): Answer;
}

const slash = Buffer.from("/");

export class Inspector {
  readonly help = `
    stats:              Display RAFS filesystesm metadata
    ls:                 Show files in current directory
    cd DIR:             Change current directory
    stat FILE_NAME:     Show particular information of RAFS file
    blobs:              Show blob table
    prefetch:           Show prefetch table
    chunk OFFSET:       List basic info of a single chunk together with a list of files that share it
    icheck INODE:       Show path of the inode and basic information
    exit:               Exit
        
`;
  readonly #file: BootstrapFile;
  /** nids from the root to the current directory */
  #directories: number[];
  readonly #commands: Readonly<Record<string, Command>> = {
    help: { argument: false, run: () => ({ text: this.help }) },
    stats: { argument: false, run: () => this.#stats() },
    ls: { argument: false, run: () => this.#list() },
    cd: { argument: true, run: (name) => this.#changeDirectory(name) },
    stat: { argument: true, run: (name) => this.#stat(name) },
    blobs: { argument: false, run: () => this.#blobs() },
    prefetch: { argument: false, run: () => this.#prefetch() },
    chunk: { argument: true, run: (offset) => this.#chunk(offset) },
    icheck: { argument: true, run: (nid) => this.#icheck(nid) },
  };

  constructor(file: BootstrapFile) {
    this.#file = file;
    this.#directories = [file.bootstrap.rootNid];
  }

  get commands(): string[] {
    return Object.keys(this.#commands);
  }

  /** Undefined for a command that is not known, or has an argument too few or too many. */
  run([name, argument]: readonly string[]): Answer | undefined {
    const command = Object.hasOwn(this.#commands, name) ? this.#commands[name] : undefined;
    if (!command || command.argument !== (argument !== undefined)) return undefined;
    return command.run(argument ?? "");
  }

  #stats(): Answer {
    const { bootstrap } = this.#file;
    const tables = bootstrap.version === 6 ? tablesV6(this.#file.bytes) : tablesV5(this.#file.bytes);
    const text = `
    Version:                ${bootstrap.version}
    Inodes Count:           ${bootstrap.inodeCount}
    Chunk Size:             ${bootstrap.chunkSize / 1024}KB
    Root Inode:             ${bootstrap.rootNid}
    Flags:                  ${superFlagNames(bootstrap.flags)}
    Blob table offset:      0x${tables.blobOffset.toString(16)}
    Blob table size:        0x${tables.blobSize.toString(16)}
    Prefetch table offset:  0x${tables.prefetchOffset.toString(16)}
    Prefetch table entries: 0x${bootstrap.prefetchNids.length.toString(16)}
    Chunk table offset:     0x${tables.chunkOffset.toString(16)}
    Chunk table size:       0x${tables.chunkSize.toString(16)}
    
`;
    return { text, json: { inodes_count: bootstrap.inodeCount } };
  }

  #list(): Answer {
    const { bootstrap } = this.#file;
    const signs: Partial<Record<Inode["type"], string>> = { file: "-", dir: "d", symlink: "l" };
    let text = "";
    for (const { name, nid, type } of bootstrap.readDir(this.#directories.at(-1)!)) {
      text += `${signs[type] ?? " "}    ${String(nid).padEnd(8)} ${quoteBytes(name)}\n`;
    }
    return { text };
  }

  #changeDirectory(name: string): Answer {
    const { bootstrap } = this.#file;
    if (name === ".") return { text: "" };
    if (name === "..") {
      if (this.#directories.length > 1) this.#directories.pop();
      return { text: "" };
    }
    const nid = bootstrap.lookup(this.#directories.at(-1)!, Buffer.from(name));
    if (nid === undefined) return { text: `${name} is not there\n` };
    if (bootstrap.inode(nid).type !== "dir") return { text: `${name} is not a directory\n` };
    this.#directories.push(nid);
    return { text: "" };
  }

  #stat(name: string): Answer {
    const { bootstrap } = this.#file;
    const directory = this.#directories.at(-1)!;
    const nid = name === "." ? directory : bootstrap.lookup(directory, Buffer.from(name));
    if (nid === undefined) return { text: `${name} is not there\n` };
    const parent = name === "." ? (this.#directories.at(-2) ?? directory) : directory;
    return { text: this.#inodeText(nid, Buffer.from(name), parent) + this.#chunkText(nid) };
  }

  #inodeText(nid: number, name: Uint8Array, parent: number): string {
    const inode = this.#file.bootstrap.inode(nid);
    return `
Inode Number:       ${nid}
Name:               ${quoteBytes(name)}
Size:               ${inode.size}
Parent:             ${parent}
Mode:               0x${inode.mode.toString(16).toUpperCase()}
Permissions:        ${inode.mode.toString(8)}
Nlink:              ${inode.nlink}
UID:                ${inode.uid}
GID:                ${inode.gid}
Mtime:              ${inode.mtime}
MtimeNsec:          ${inode.mtimeNsec}
Blocks:             ${Math.ceil(inode.size / 512)}
`;
  }

  #chunkText(nid: number): string {
    const { bootstrap } = this.#file;
    if (bootstrap.inode(nid).type !== "file") return "";
    let text = "  Chunk list:\n";
    let i = 0;
    for (const chunk of bootstrap.chunksOf(nid)) {
      const record = bootstrap.chunkRecord(chunk);
      const blob = bootstrap.blobs[chunk.blobIndex];
      text += `        ${i} ->
        file offset: ${i++ * bootstrap.chunkSize}, chunk index: ${chunk.chunkIndex}
        compressed size: ${record?.compressedSize ?? 0}, decompressed size: ${record?.uncompressedSize ?? chunk.length}
        compressed offset: ${record?.compressedOffset ?? 0}, decompressed offset: ${chunk.uncompressedOffset}
        blob id: ${storedBlobId(this.#file, blob)}
        chunk id: ${hex(record?.digest, 32)}
    
`;
    }
    return text;
  }

  #blobs(): Answer {
    const { bootstrap } = this.#file;
    const text = bootstrap.blobs.map((blob) => this.#blobText(blob)).join("");
    const json = bootstrap.blobs.map((blob) => ({
      blob_id: storedBlobId(this.#file, blob),
      compressed_size: blob.compressedSize,
      decompressed_size: blob.uncompressedSize,
      readahead_offset: 0,
      readahead_size: blob.prefetchSize,
    }));
    return { text, json };
  }

  #blobText(blob: BlobRecord): string {
    const capital = (word: string) => word.charAt(0).toUpperCase() + word.slice(1);
    const ciphers: Record<string, string> = {
      none: "None",
      "aes-128-xts": "Aes128Xts",
      "aes-256-xts": "Aes256Xts",
      "aes-256-gcm": "Aes256Gcm",
    };
    return `
Blob Index:             ${blob.index}
Blob ID:                ${storedBlobId(this.#file, blob)}
Raw Blob ID:            ${blob.id}
Blob Size:              ${blob.compressedSize}
Compressed Data Size:   ${compressedDataSize(blob)}
Uncompressed Data Size: ${blob.uncompressedSize}
Mapped Block Address:   ${mappedBlock(this.#file, blob)}
Features:               ${blobFeatureNames(blob.features)}
Compressor:             ${blob.compressor}
Digester:               ${capital(blob.digester)}
Cipher:                 ${ciphers[blob.cipher]}
Chunk Size:             0x${blob.chunkSize.toString(16)}
Chunk Count:            ${blob.chunkCount}
Prefetch Table Offset:  0
Prefetch Table Size:    ${blob.prefetchSize}
Meta Compressor:        ${blob.ciCompressor}
Meta Offset:            ${blob.ciOffset}
Meta Compressed Size:   ${blob.ciCompressedSize}
Meta Uncompressed Size: ${blob.ciUncompressedSize}
ToC Digest:             ${hex(blob.tocDigest, 32)}
ToC Size:               ${blob.tocSize}
RAFS Blob Digest:       ${hex(blob.metaDigest, 32)}
RAFS Blob Size:         ${blob.metaSize}
`;
  }

  #prefetch(): Answer {
    const { bootstrap } = this.#file;
    const paths = this.#pathsOf(new Set(bootstrap.prefetchNids));
    let text = `Total Prefetching Files: ${bootstrap.prefetchNids.length}\n`;
    const json: unknown[] = [];
    for (const nid of bootstrap.prefetchNids) {
      const found = paths.get(nid) ?? [];
      text += `Inode Number:${String(nid).padStart(10)} | Path: ${quoteBytes(Buffer.from(found.map((path) => path.toString("latin1")).join(" "), "latin1"))} \n`;
      json.push({ inode: nid, path: found.map((path) => path.toString()) });
    }
    return { text, json };
  }

  /** All paths of some inodes; those of directories end in a slash. */
  #pathsOf(nids: ReadonlySet<number>): Map<number, Buffer[]> {
    const paths = new Map<number, Buffer[]>();
    if (nids.size === 0) return paths;
    for (const { path, nid, inode } of this.#file.bootstrap.walk()) {
      if (!nids.has(nid)) continue;
      const bytes = Buffer.from(path);
      const shown = inode.type === "dir" && bytes.length > 1 ? Buffer.concat([bytes, slash]) : bytes;
      paths.set(nid, [...(paths.get(nid) ?? []), shown]);
    }
    return paths;
  }

  #chunk(offset: string): Answer {
    const { bootstrap } = this.#file;
    const wanted = Number(offset);
    if (!/^[0-9]+$/.test(offset)) return { text: `Wrong OFFSET is specified: ${offset} is not a number\n` };
    let text = "";
    for (const { path, nid } of bootstrap.walk()) {
      for (const chunk of bootstrap.chunksOf(nid)) {
        const record = bootstrap.chunkRecord(chunk);
        if (record?.compressedOffset !== wanted) continue;
        const at = path.lastIndexOf(0x2f);
        const name = Buffer.from(path.subarray(at + 1)).toString();
        const parent = Buffer.from(path.subarray(0, Math.max(at, 1))).toString();
        text += `
File: ${name.padEnd(32)} Parent Path: ${parent.padEnd(32)}
Compressed Offset: ${record.compressedOffset}, Compressed Size: ${record.compressedSize}
Decompressed Offset: ${record.uncompressedOffset}, Decompressed Size: ${record.uncompressedSize}
Chunk ID: ${hex(record.digest, 32).padEnd(50)},
Blob ID: ${storedBlobId(this.#file, bootstrap.blobs[chunk.blobIndex])}

`;
      }
    }
    return { text };
  }

  #icheck(inode: string): Answer {
    if (!/^[0-9]+$/.test(inode)) return { text: "Wrong INODE is specified. Is it a inode number?\n" };
    const parents = new Map<string, number>();
    let text = "";
    for (const { path, nid, inode: found } of this.#file.bootstrap.walk()) {
      const words = Buffer.from(path).toString("latin1");
      const at = words.lastIndexOf("/");
      if (found.type === "dir") parents.set(words === "/" ? "" : words, nid);
      if (nid !== Number(inode)) continue;
      const parent = parents.get(words.slice(0, at)) ?? nid;
      text += `${Buffer.from(path).toString()}\n${this.#inodeText(nid, words === "/" ? slash : Buffer.from(words.slice(at + 1), "latin1"), parent)}`;
      if (found.type === "dir") break;
    }
    return { text };
  }
}

interface Tables {
  blobOffset: bigint;
  blobSize: number;
  prefetchOffset: bigint;
  chunkOffset: bigint;
  chunkSize: bigint;
}

function tablesV6(bytes: Buffer): Tables {
  const u64 = (field: number) => bytes.readBigUInt64LE(extendedSuperblockOffset + field);
  return {
    blobOffset: u64(EXTENDED_SUPERBLOCK.blobTableOffset),
    blobSize: bytes.readUInt32LE(extendedSuperblockOffset + EXTENDED_SUPERBLOCK.blobTableSize),
    prefetchOffset: u64(EXTENDED_SUPERBLOCK.prefetchTableOffset),
    chunkOffset: u64(EXTENDED_SUPERBLOCK.chunkTableOffset),
    chunkSize: u64(EXTENDED_SUPERBLOCK.chunkTableSize),
  };
}

function tablesV5(bytes: Buffer): Tables {
  return {
    blobOffset: bytes.readBigUInt64LE(SUPERBLOCK_V5.blobTableOffset),
    blobSize: bytes.readUInt32LE(SUPERBLOCK_V5.blobTableSize),
    prefetchOffset: bytes.readBigUInt64LE(SUPERBLOCK_V5.prefetchTableOffset),
    chunkOffset: 0n,
    chunkSize: 0n,
  };
}
