/** Line of a syntax error thrown by the TOML parser. */
export function tomlLine(error: unknown): number {
  const { line, location } = error as { line?: number; location?: { start: { line: number } } };
  return location?.start.line ?? line ?? 1;
}
