/** A request as the host that it is meant for would get it. */
export interface UnsignedRequest {
  readonly method: string;
  readonly url: URL;
  readonly headers: Readonly<Record<string, string | readonly string[]>>;
}

/** How an object store is told who asks: each request carries a signature, and nothing is asked for first. */
export interface RequestSigner {
  /** Where the key comes from, for messages; never the key. */
  readonly source: string;
  /** Headers to send beside those that are there. */
  sign(request: UnsignedRequest): Promise<Readonly<Record<string, string>>>;
}
