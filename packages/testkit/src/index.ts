export { type Containerd, type ContainerdOptions, type CtrOptions, containerdSocket, startContainerd } from "./containerd.ts";
export { type ContainerOptions, type CriAuth, CriClient, containerStates, type ExecResult, type PodConfig } from "./cri.ts";
export {
  type DamagedCase,
  damagedCases,
  type GoldenCase,
  goldenAbsent,
  goldenCase,
  goldenCases,
  goldenDir,
  readBootstrap,
  readListing,
} from "./golden.ts";
export {
  busyboxImage,
  busyboxRoot,
  type Descriptor,
  debianPythonImage,
  digestFile,
  gzipLayer,
  type ImageConfig,
  imageFromDirectory,
  type Layer,
  pushLayout,
  writeLayout,
} from "./images.ts";
export { limits } from "./limits.ts";
export {
  type CompareOptions,
  compareListings,
  type EntryType,
  type JsonBytes,
  jsonBytes,
  type ListingEntry,
  type ListOptions,
  listTree,
  parseListing,
} from "./listing.ts";
export { createNetwork, type Network, type NetworkOptions } from "./network.ts";
export { type ObjectFault, type ObjectRequest, TestObjectStore, type TestObjectStoreOptions } from "./object-store.ts";
export { firstOutputAt, type Program, type ProgramOptions, type RunOptions, type RunResult, run, startProgram, until } from "./process.ts";
export { freePort, type Registry, type RegistryOptions, type RegistryRequest, startRegistry } from "./registry.ts";
export { ownBinaries, type Snapshotter, type SnapshotterOptions, startSnapshotter } from "./snapshotter.ts";
export { mountsUnder, processesOf, sweep, Workspace } from "./workspace.ts";
