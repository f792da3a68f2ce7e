import type { PrefetchPolicy } from "@nydus-ts/builder";
import type { ImageSource, ImageTarget, Platform } from "@nydus-ts/registry-client";
import type { BlobStore } from "./blob-store.ts";
import type { BuildCache } from "./build-cache.ts";
import type { Dictionary } from "./dictionary.ts";
import type { LayerFormat } from "./layer.ts";
import type { Progress } from "./progress.ts";

export interface ConvertOptions {
  source: ImageSource;
  target: ImageTarget;
  /** where data blobs go */
  blobs: BlobStore;
  /** undefined: all of them */
  platforms: readonly Platform[] | undefined;
  format: LayerFormat;
  /** layers that were converted before */
  cache: BuildCache | undefined;
  /** chunks that are not stored again */
  dictionary: Dictionary | undefined;
  prefetch: { policy: PrefetchPolicy; patterns: readonly string[] };
  /** the result is an index with the OCI images and the nydus images */
  mergePlatform: boolean;
  /** nydus manifests name their source's as subject */
  withReferrer: boolean;
  /** where blobs lie until they are written; default: a new directory in the system's temporary directory */
  workDirectory: string | undefined;
  builderVersion: string;
  progress: Progress;
  signal: AbortSignal;
}
