import type { Target } from "../../target.ts";

export const target: Target = {
  name: "other-error",
  seeds: () => [
    {
      name: "seven",
      bytes: new Uint8Array(64).fill(7),
      read: (bytes) => {
        if (bytes.length > 0 && bytes[20] !== 7) throw new TypeError("byte 20 was changed");
      },
    },
  ],
  accepts: (error) => !(error instanceof TypeError),
};
