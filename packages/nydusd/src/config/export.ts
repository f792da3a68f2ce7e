import { backendKinds, type ConfigV2 } from "./schema-v2.ts";

const secretHeader = /auth|token|cookie|secret|key|password/i;

/**
 * The configuration as daemon info shows it: every key, absent tables as null, without secrets. The original leaves S3 keys, proxy
 * passwords and encryption keys in (spec/nydusd.md 18, row 39); here they are blank.
 */
export function exportConfig(config: ConfigV2): Record<string, unknown> {
  const copy = structuredClone(config) as Record<string, unknown> & ConfigV2;
  const { backend, cache } = copy;
  if (backend != null) {
    for (const kind of backendKinds) backend[kind] ??= null;
    if (backend.registry != null) {
      Object.assign(backend.registry, { scheme: backend.registry.scheme ?? "https", auth: null, registry_token: null });
    }
    for (const store of [backend.oss, backend.s3]) if (store != null) Object.assign(store, { access_key_id: "", access_key_secret: "" });
    for (const table of [backend.registry, backend.oss, backend.s3, backend["http-proxy"]]) {
      if (table == null) continue;
      table.proxy.url = withoutUserInfo(table.proxy.url);
      table.proxy.ping_url = withoutUserInfo(table.proxy.ping_url);
      for (const mirror of table.mirrors) {
        mirror.host = withoutUserInfo(mirror.host);
        mirror.ping_url = withoutUserInfo(mirror.ping_url);
        for (const name of Object.keys(mirror.headers)) if (secretHeader.test(name)) mirror.headers[name] = "";
      }
    }
  }
  if (cache?.filecache != null) cache.filecache.encryption_key = "";
  for (const external of copy.external_backends) for (const key of Object.keys(external.config)) external.config[key] = "";
  return {
    ...copy,
    backend: backend ?? null,
    cache: cache == null ? null : { ...cache, filecache: cache.filecache ?? null, fscache: cache.fscache ?? null },
    rafs: copy.rafs ?? null,
    overlay: copy.overlay ?? null,
  };
}

function withoutUserInfo(url: string): string {
  return url.replace(/^([a-z][a-z0-9+.-]*:\/\/)[^/@]*@/i, "$1");
}
