import { z } from "zod";

/**
 * The answer of containerd-nydus-grpc's `GET /api/v1/explain` (on its system socket, an extension): how an image or a container is served, layer by
 * layer, the lowest first. Bytes are uncompressed; `null`: not known yet.
 */
export const explanationSchema = z.looseObject({
  /** What was asked about: the key of its topmost snapshot. */
  snapshot: z.string(),
  kind: z.enum(["view", "active", "committed"]),
  image: z.string().nullable(),
  /** Where nydusd shows the image on the host; null while no container needs it. */
  mountpoint: z.string().nullable(),
  /** Why the image could not be mounted again. */
  broken: z.string().nullable(),
  layers: z.array(
    z.looseObject({
      snapshot: z.string(),
      digest: z.string().nullable(),
      format: z.enum(["ordinary", "nydus-blob", "nydus-bootstrap"]),
      mode: z.enum(["lazy", "overlay"]),
      reason: z.string(),
      bytesLocal: z.number().nullable(),
      bytesTotal: z.number().nullable(),
    }),
  ),
});
export type Explanation = z.infer<typeof explanationSchema>;
