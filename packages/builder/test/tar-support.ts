/** One regular file for each of `files`, in order. Source: POSIX ustar */
export function tarOf(files: readonly Buffer[], name = "file"): Buffer {
  const parts: Buffer[] = [];
  for (const [i, data] of files.entries()) {
    const header = Buffer.alloc(512);
    header.write(`${name}${i}`.slice(0, 100), 0, "latin1");
    header.write("0000644\0", 100);
    header.write("0000000\0", 108);
    header.write("0000000\0", 116);
    header.write(`${data.length.toString(8).padStart(11, "0")}\0`, 124);
    header.write("00000000000\0", 136);
    header.write("        ", 148);
    header.write("0", 156);
    header.write("ustar\x0000", 257, "latin1");
    const sum = header.reduce((total, byte) => total + byte, 0);
    header.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148);
    parts.push(header, data, Buffer.alloc((512 - (data.length % 512)) % 512));
  }
  return Buffer.concat([...parts, Buffer.alloc(1024)]);
}
