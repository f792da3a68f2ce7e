import type { Target } from "../../target.ts";

export const target: Target = {
  name: "growth",
  seeds: () => [{ name: "zeros", bytes: new Uint8Array(64), read: () => void new Uint8Array(512 * 1024 * 1024).fill(1) }],
  accepts: () => true,
};
