import type { Capability } from "@nydus-ts/mirror-config";
import type { EndpointRequest } from "./endpoint.ts";

export interface Exchange extends EndpointRequest {
  /** What the call is, for messages: `reading blob sha256:…`. */
  readonly what: string;
  readonly capability: Capability;
  /** Redirect targets of this key are remembered. */
  readonly redirectKey?: string;
  /** Statuses of 400 and more that `use` wants to see itself. */
  readonly accept?: readonly number[];
  /** No second attempt and no second host: the request changes something or its body is gone. */
  readonly once?: boolean;
  /** `use` returns while the body is still on the wire and takes care of it. */
  readonly keepOpen?: boolean;
}
