import * as grpc from "@grpc/grpc-js";
import { type InfoMessage, type MethodName, type ReplyOf, type RequestOf, serviceDefinition } from "../service/proto.ts";

/** A call that the snapshotter refused; the message is the status's text alone. */
export class CallError extends Error {
  readonly code: grpc.status;
  constructor(error: grpc.ServiceError) {
    super(error.details);
    this.code = error.code;
  }
}

/** A client of the snapshots service as containerd is one. */
export class TestClient {
  readonly #client: grpc.Client & Record<string, (...args: unknown[]) => unknown>;

  constructor(socket: string, options: grpc.ClientOptions = {}) {
    const Client = grpc.makeGenericClientConstructor(serviceDefinition as unknown as grpc.ServiceDefinition, "Snapshots");
    this.#client = new Client(`unix:${socket}`, grpc.credentials.createInsecure(), options) as never;
  }

  call<M extends Exclude<MethodName, "List">>(method: M, request: Partial<RequestOf<M>>): Promise<ReplyOf<M>> {
    return new Promise((resolve, reject) => {
      this.#client[method](request, (error: grpc.ServiceError | null, reply: ReplyOf<M>) =>
        error === null ? resolve(reply) : reject(new CallError(error)),
      );
    });
  }

  /** All messages of one List. */
  async list(filters: readonly string[] = []): Promise<InfoMessage[][]> {
    const stream = this.#client["List"]({ filters }) as AsyncIterable<ReplyOf<"List">>;
    const messages: InfoMessage[][] = [];
    try {
      for await (const { info } of stream) messages.push([...info]);
    } catch (error) {
      throw new CallError(error as grpc.ServiceError);
    }
    return messages;
  }

  async names(filters: readonly string[] = []): Promise<string[]> {
    return (await this.list(filters))
      .flat()
      .map((info) => info.name)
      .sort();
  }

  close(): void {
    this.#client.close();
  }
}
