import type { Target } from "../../target.ts";

export const target: Target = {
  name: "hang",
  seeds: () => [
    {
      name: "zeros",
      bytes: new Uint8Array(64),
      read: () => {
        for (;;);
      },
    },
  ],
  accepts: () => true,
};
