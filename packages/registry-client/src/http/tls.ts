import { readFileSync } from "node:fs";
import { createSecureContext, getCACertificates, type SecureContext } from "node:tls";
import { RegistryError } from "../errors.ts";

export interface TlsOptions {
  /** PEM files, each with one or more certificates, trusted beside the system's. */
  readonly caFiles: readonly string[];
  readonly clientCertificates: readonly { readonly certFile: string; readonly keyFile?: string }[];
  readonly skipVerify: boolean;
}

let systemRoots: string[] | undefined;

/** Node's own roots and the system's; some machines have only one of them up to date. Read once per process. */
function roots(): string[] {
  systemRoots ??= [...new Set([...getCACertificates("bundled"), ...getCACertificates("system"), ...getCACertificates("extra")])];
  return systemRoots;
}

/**
 * One context for all connections of a profile: parsing some 300 roots for each connection would cost more than the handshake.
 *
 * @throws RegistryError REGISTRY_CONFIG for a file that cannot be read or holds no certificate
 */
export function secureContext(options: TlsOptions): SecureContext {
  const extra = options.caFiles.map((file) => {
    const text = read(file, "CA file");
    if (!text.includes("-----BEGIN CERTIFICATE-----") && !text.includes("-----BEGIN TRUSTED CERTIFICATE-----")) {
      throw new RegistryError("REGISTRY_CONFIG", `the CA file ${file} holds no PEM certificate`, {
        hint: "convert it: openssl x509 -inform der -in FILE -out FILE.pem",
      });
    }
    return text;
  });
  const cert = options.clientCertificates.map(({ certFile }) => read(certFile, "client certificate"));
  const key = options.clientCertificates.map(({ certFile, keyFile }) => read(keyFile ?? certFile, "client key"));
  try {
    return createSecureContext({
      ...(options.skipVerify ? {} : { ca: [...roots(), ...extra] }),
      ...(cert.length > 0 ? { cert, key } : {}),
    });
  } catch (cause) {
    const files = [...options.caFiles, ...options.clientCertificates.map(({ certFile }) => certFile)].join(", ");
    throw new RegistryError("REGISTRY_CONFIG", `a certificate or key cannot be used (${files})`, {
      cause,
      hint: "check that the files are PEM, complete, and that key and certificate belong together",
    });
  }
}

function read(file: string, what: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch (cause) {
    throw new RegistryError("REGISTRY_CONFIG", `the ${what} ${file} cannot be read`, { cause, hint: (cause as Error).message });
  }
}
