/** Set by the bundler (`define`); absent when run from source. */
declare const __NYDUS_BUILD__: { readonly version: string; readonly commit: string; readonly time: string } | undefined;

const build = typeof __NYDUS_BUILD__ === "undefined" ? undefined : __NYDUS_BUILD__;

/** The `version` object of daemon info. `rustc` is the key the clients know; it names the runtime. */
export const version = {
  package_ver: `v${build?.version ?? "0.1.0"}`,
  git_commit: build?.commit ?? "unknown",
  build_time: build?.time ?? "unknown",
  profile: build === undefined ? "source" : "release",
  rustc: `node ${process.version}`,
} as const;

/** What `--version` prints. Source of the form: spec/nydusd.md 1.1. */
export function versionText(): string {
  return [
    `Version: \t${version.package_ver}`,
    `Git Commit: \t${version.git_commit}`,
    `Build Time: \t${version.build_time}`,
    `Profile: \t${version.profile}`,
    `Runtime: \t${version.rustc}`,
  ].join("\n");
}
