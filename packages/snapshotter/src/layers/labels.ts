export type Labels = Readonly<Record<string, string>>;

/** Annotations of a layer with this prefix become labels of its snapshot. Source: spec/containerd.md 2. */
export const INHERITED = "containerd.io/snapshot/";

/** The labels this program reads and writes. Source: spec/snapshotter.md 6, spec/images.md 1.2. */
export const LABELS = {
  /** containerd's "this Prepare is an image layer"; the value is its chain id. */
  target: "containerd.io/snapshot.ref",
  imageRef: "containerd.io/snapshot/cri.image-ref",
  buildkitImageRef: "containerd.io/snapshot/remote/stargz.reference",
  layerDigest: "containerd.io/snapshot/cri.layer-digest",
  nydusBlob: "containerd.io/snapshot/nydus-blob",
  nydusBootstrap: "containerd.io/snapshot/nydus-bootstrap",
  pullUser: "containerd.io/snapshot/pullusername",
  pullSecret: "containerd.io/snapshot/pullsecret",
  volatile: "containerd.io/snapshot/overlay.volatile",
  uidMapping: "containerd.io/snapshot/uidmapping",
  gidMapping: "containerd.io/snapshot/gidmapping",
  stargzToc: "containerd.io/snapshot/stargz/toc.digest",
  overlaybd: "containerd.io/snapshot/overlaybd/blob-digest",
  /** Ours: how the snapshot is served, `lazy` or `overlay`. */
  mode: "containerd.io/snapshot/nydus-mode",
} as const;

/** The reference of the image a layer belongs to, if the client said so. */
export function imageRefOf(labels: Labels): string | undefined {
  return labels[LABELS.imageRef] || labels[LABELS.buildkitImageRef] || undefined;
}

/** `NAMESPACE/N/KEY`, the form containerd gives every key. Other clients of the socket use other forms. */
export function containerdKey(key: string): { namespace: string; name: string } | undefined {
  const match = /^([^/]+)\/\d+\/(.+)$/s.exec(key);
  return match === null ? undefined : { namespace: match[1], name: match[2] };
}
