/** `<version>-<commit>`, the shape that readers of the JSON output expect; the build replaces the commit. Source: spec/nydus-image.md, section 1.4 */
export const builderVersion = "v0.1.0-unknown";
