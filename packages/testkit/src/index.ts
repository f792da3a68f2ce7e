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
