/** Positions in `fop_hits` and its sisters. Source: spec/nydusd.md 17. */
export const fileOperations = [
  "getattr",
  "readlink",
  "open",
  "release",
  "read",
  "statfs",
  "getxattr",
  "listxattr",
  "opendir",
  "lookup",
  "readdir",
  "readdirplus",
  "access",
  "forget",
  "batch_forget",
] as const;
