import { retryAfter } from "./auth/token-service.ts";
import { RegistryError, type RegistryErrorCode, serverWords } from "./errors.ts";
import type { Exchange } from "./exchange.ts";
import type { Answer, Transport } from "./http/transport.ts";
import { ERROR_BODY_BYTES_MAX } from "./limits.ts";

/** By status; a redirect that says not where counts as 300. */
export type StatusHints = Readonly<Partial<Record<number, string>>>;

/** What a status of 300 or more means: which code, whether to try again, what a person can do. */
export async function statusError(
  answer: Answer,
  exchange: Pick<Exchange, "what" | "method">,
  credentialSource: string,
  transport: Transport,
  hints: StatusHints = {},
): Promise<RegistryError> {
  const words = exchange.method === "HEAD" ? "" : serverWords(await answer.text(ERROR_BODY_BYTES_MAX).catch(() => ""));
  const what = `${exchange.what}: ${answer.url.host} answered ${answer.status}${words === "" ? "" : ` (${words})`}`;
  const { status } = answer;
  const of = (code: RegistryErrorCode, retryable: boolean, usual?: string): RegistryError => {
    const hint = hints[status < 400 ? 300 : status] ?? usual;
    return new RegistryError(code, what, {
      request: answer.request,
      retryable,
      ...(hint === undefined ? {} : { hint }),
      ...retryAfter(answer),
    });
  };
  if (status === 429) {
    transport.traffic.gate(answer.url).slowDown(retryAfter(answer).retryAfterMs);
    return of("REGISTRY_RATE_LIMITED", true, "the registry limits requests; log in for a higher limit, or use a mirror");
  }
  if (status === 401)
    return of("REGISTRY_UNAUTHORIZED", false, `credentials from ${credentialSource} did not satisfy the registry; log in again`);
  if (status === 403) return of("REGISTRY_FORBIDDEN", false, `the account from ${credentialSource} may not do this`);
  if (status === 404) return of("REGISTRY_NOT_FOUND", false, "check the name, the tag and whether a login is needed to see it");
  if (status === 416) return of("REGISTRY_RANGE", false, "the range lies outside the content");
  if (status === 408 || (status >= 500 && status !== 501 && status !== 505)) return of("REGISTRY_SERVER", true);
  if (status >= 500) return of("REGISTRY_SERVER", false);
  if (status < 400) return of("REGISTRY_PROTOCOL", false, "a redirect without a Location");
  return of("REGISTRY_REFUSED", false);
}
