/** Set by the bundler (`define`); absent when run from source. */
declare const __NYDUS_BUILD__: { readonly version: string; readonly commit: string; readonly time: string } | undefined;

const build = typeof __NYDUS_BUILD__ === "undefined" ? undefined : __NYDUS_BUILD__;

/** The same block as `nydusd --version`. */
export function versionText(): string {
  return [
    `Version: \tv${build?.version ?? "0.1.0"}`,
    `Git Commit: \t${build?.commit ?? "unknown"}`,
    `Build Time: \t${build?.time ?? "unknown"}`,
    `Profile: \t${build === undefined ? "source" : "release"}`,
    `Runtime: \tnode ${process.version}`,
  ].join("\n");
}
