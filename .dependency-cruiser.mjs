// The map of docs/architecture.md as a rule: who may import whom.
const may = {
  "rafs-format": [],
  "mirror-config": [],
  "registry-client": ["mirror-config"],
  "chunk-store": ["rafs-format"],
  linux: [],
  fuse: ["linux"],
  "nydus-api": [],
  builder: ["rafs-format"],
  nydusd: ["rafs-format", "mirror-config", "registry-client", "chunk-store", "linux", "fuse", "nydus-api"],
  nydusctl: ["nydus-api", "rafs-format"],
  "nydus-image": ["builder", "rafs-format", "registry-client", "chunk-store", "linux"],
  snapshotter: ["rafs-format", "mirror-config", "registry-client", "chunk-store", "linux", "nydus-api"],
  testkit: ["rafs-format", "linux"],
};

export default {
  forbidden: [
    { name: "no-circular", severity: "error", from: {}, to: { circular: true } },
    ...Object.entries(may).map(([name, allowed]) => ({
      name: `${name}-imports-only-what-the-map-allows`,
      severity: "error",
      from: { path: `^packages/${name}/src/` },
      to: { path: "^packages/", pathNot: `^packages/(${[name, ...allowed].join("|")})/` },
    })),
    {
      name: "no-private-path-of-another-package",
      comment: "Import the package's name; what is not in its exports is private.",
      severity: "error",
      from: { path: "^packages/([^/]+)/" },
      to: { path: "^packages/([^/]+)/src/", pathNot: ["^packages/$1/", "/src/index\\.ts$", "/src/(testing|writer)/index\\.ts$"] },
    },
  ],
  options: {
    doNotFollow: { path: "node_modules" },
    tsPreCompilationDeps: true,
    tsConfig: { fileName: "tsconfig.json" },
    enhancedResolveOptions: { conditionNames: ["@nydus-ts/source", "import", "node", "default"], exportsFields: ["exports"] },
  },
};
