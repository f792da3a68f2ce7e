/** Registries without the referrers API keep the list under a tag that the one who pushes maintains. Source: OCI distribution specification 1.1, "Referrers Tag Schema" */
import { type Descriptor, MEDIA_TYPES, parseManifest, RegistryError, type RegistryImage } from "@nydus-ts/registry-client";

/** For each request. */
const deadlineMs = 60_000;

/** Makes `manifest` findable as a referrer of `subject`, where the registry does not do it by itself. */
export async function listReferrer(target: RegistryImage, subject: string, manifest: Descriptor, signal: AbortSignal): Promise<void> {
  const { client } = target;
  const { repository } = target.reference;
  const call = { deadlineMs, signal };
  if ((await client.referrers(repository, subject, call)) !== undefined) return;
  const tag = subject.replace(":", "-");
  const index = await client
    .resolve(repository, tag, call)
    .then((descriptor) => client.manifest(repository, descriptor, call))
    .catch((error: unknown) => {
      if (error instanceof RegistryError && error.code === "REGISTRY_NOT_FOUND") return undefined;
      throw error;
    });
  const parsed = index && parseManifest(index);
  const known = parsed?.kind === "index" ? parsed.value.manifests : [];
  if (known.some(({ digest }) => digest === manifest.digest)) return;
  const bytes = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: MEDIA_TYPES.ociIndex, manifests: [...known, manifest] }));
  await client.pushManifest(repository, bytes, MEDIA_TYPES.ociIndex, tag, call);
}
