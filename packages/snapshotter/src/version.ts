/** Set by the bundler (`define`); absent when run from source. */
declare const __NYDUS_BUILD__: { readonly version: string; readonly commit: string; readonly time: string } | undefined;

const build = typeof __NYDUS_BUILD__ === "undefined" ? undefined : __NYDUS_BUILD__;

export const packageVersion = `v${build?.version ?? "0.1.0"}`;

/** What `--version` prints; values begin in column 14. Source of the form: spec/snapshotter.md 1.2. */
export function versionText(): string {
  const rows = [
    ["Version:", packageVersion],
    ["Revision:", build?.commit ?? "unknown"],
    ["Runtime:", `node ${process.version}`],
    ["Build time:", build?.time ?? "unknown"],
  ];
  return rows.map(([name, value]) => `${name.padEnd(13)}${value}\n`).join("");
}
