import type { Labels } from "../layers/labels.ts";
import type { Snapshot } from "../store/snapshots.ts";

/** What the configuration of one instance is made from. */
export interface ConfigSource {
  /**
   * The daemon's configuration for this image, with credentials, and the reference it was made for.
   * @param request.bootstrap  absent while the image is being pulled: then the labels must name it
   * @throws SnapshotterError IMAGE_UNKNOWN: no reference is known for the image
   */
  configure(request: { key: string; bootstrap: Snapshot | undefined; labels: Labels }): Promise<{ text: string; image: string }>;
}
