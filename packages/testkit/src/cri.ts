import { Client, credentials, type ServiceError } from "@grpc/grpc-js";
import protobuf from "protobufjs";
import { criProto } from "./cri-proto.ts";
import { limits } from "./limits.ts";

/** What PullImage may present to the registry. */
export interface CriAuth {
  readonly username?: string;
  readonly password?: string;
}

export interface PodConfig {
  readonly name: string;
  /** Folder of the containers' log files. */
  readonly logDirectory?: string;
  readonly cgroupParent?: string;
}

export interface ContainerOptions {
  readonly name: string;
  readonly image: string;
  readonly command: readonly string[];
  /** Bind mounts, container path to host path, read-only. */
  readonly mounts?: Readonly<Record<string, string>>;
  /** File in the pod's log folder. */
  readonly logPath?: string;
}

export interface ExecResult {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** As in CRI: ContainerState. */
export const containerStates = ["created", "running", "exited", "unknown"] as const;

const types = protobuf.parse(criProto, { keepCase: true }).root;
const hostNetwork = 2; // NamespaceMode NODE: no CNI plugin is needed

/** Kubernetes' container runtime interface, as kubelet would call it; pods use the network of containerd. */
export class CriClient {
  readonly #client: Client;

  constructor(socketPath: string) {
    this.#client = new Client(`unix://${socketPath}`, credentials.createInsecure(), { "grpc.default_authority": "localhost" });
  }

  close(): void {
    this.#client.close();
  }

  async version(): Promise<string> {
    const answer = await this.#call("RuntimeService", "Version", {}, 2_000);
    return `${answer["runtime_name"]} ${answer["runtime_version"]}`;
  }

  /** @returns the image's id as CRI names it */
  async pullImage(image: string, options: { auth?: CriAuth; pod?: PodConfig; deadlineMs?: number } = {}): Promise<string> {
    const request = { image: { image }, auth: options.auth, sandbox_config: options.pod && sandboxConfig(options.pod) };
    return (await this.#call("ImageService", "PullImage", request, options.deadlineMs ?? limits.pullDeadlineMs))["image_ref"] as string;
  }

  /** The image's id, or undefined when it is not there. */
  async imageStatus(image: string): Promise<string | undefined> {
    const { image: found } = await this.#call("ImageService", "ImageStatus", { image: { image } });
    return (found as { id?: string } | null | undefined)?.id;
  }

  async removeImage(image: string): Promise<void> {
    await this.#call("ImageService", "RemoveImage", { image: { image } });
  }

  /** Path, bytes and inodes of the images' file system, as kubelet sees it. */
  async imageFilesystems(): Promise<{ mountpoint: string; usedBytes: number; inodesUsed: number }[]> {
    const answer = await this.#call("ImageService", "ImageFsInfo", {});
    const list = answer["image_filesystems"] as {
      fs_id: { mountpoint: string };
      used_bytes: { value: number };
      inodes_used: { value: number };
    }[];
    return list.map((one) => ({
      mountpoint: one.fs_id.mountpoint,
      usedBytes: Number(one.used_bytes?.value ?? 0),
      inodesUsed: Number(one.inodes_used?.value ?? 0),
    }));
  }

  async runPodSandbox(pod: PodConfig): Promise<string> {
    return (await this.#call("RuntimeService", "RunPodSandbox", { config: sandboxConfig(pod) }))["pod_sandbox_id"] as string;
  }

  async stopPodSandbox(id: string): Promise<void> {
    await this.#call("RuntimeService", "StopPodSandbox", { pod_sandbox_id: id });
  }

  async removePodSandbox(id: string): Promise<void> {
    await this.#call("RuntimeService", "RemovePodSandbox", { pod_sandbox_id: id });
  }

  async listPodSandboxes(): Promise<string[]> {
    const answer = await this.#call("RuntimeService", "ListPodSandbox", {});
    return ((answer["items"] as { id: string }[] | undefined) ?? []).map((one) => one.id);
  }

  async createContainer(podId: string, pod: PodConfig, options: ContainerOptions): Promise<string> {
    const request = {
      pod_sandbox_id: podId,
      config: {
        metadata: { name: options.name },
        image: { image: options.image },
        command: options.command,
        mounts: Object.entries(options.mounts ?? {}).map(([container, host]) => ({
          container_path: container,
          host_path: host,
          readonly: true,
        })),
        log_path: options.logPath ?? "",
        linux: { security_context: { namespace_options: { network: hostNetwork } } },
      },
      sandbox_config: sandboxConfig(pod),
    };
    return (await this.#call("RuntimeService", "CreateContainer", request))["container_id"] as string;
  }

  async startContainer(id: string): Promise<void> {
    await this.#call("RuntimeService", "StartContainer", { container_id: id });
  }

  async stopContainer(id: string, timeoutSeconds = 0): Promise<void> {
    await this.#call("RuntimeService", "StopContainer", { container_id: id, timeout: timeoutSeconds });
  }

  async removeContainer(id: string): Promise<void> {
    await this.#call("RuntimeService", "RemoveContainer", { container_id: id });
  }

  async containerStatus(id: string): Promise<{ state: (typeof containerStates)[number]; exitCode: number; message: string }> {
    const answer = await this.#call("RuntimeService", "ContainerStatus", { container_id: id });
    const status = answer["status"] as { state: number; exit_code: number; message: string };
    return { state: containerStates[status.state] ?? "unknown", exitCode: status.exit_code, message: status.message };
  }

  async execSync(id: string, command: readonly string[], timeoutSeconds = 30): Promise<ExecResult> {
    const answer = await this.#call("RuntimeService", "ExecSync", { container_id: id, cmd: command, timeout: timeoutSeconds });
    return {
      exitCode: answer["exit_code"] as number,
      stdout: Buffer.from(answer["stdout"] as Uint8Array).toString("utf8"),
      stderr: Buffer.from(answer["stderr"] as Uint8Array).toString("utf8"),
    };
  }

  #call(service: string, method: string, request: object, deadlineMs: number = limits.criDeadlineMs): Promise<Record<string, unknown>> {
    const definition = types.lookupService(`runtime.v1.${service}`).methods[method] as protobuf.Method;
    const requestType = types.lookupType(`runtime.v1.${definition.requestType}`);
    const responseType = types.lookupType(`runtime.v1.${definition.responseType}`);
    return new Promise((resolve, reject) => {
      this.#client.makeUnaryRequest(
        `/runtime.v1.${service}/${method}`,
        (message: object) => Buffer.from(requestType.encode(requestType.fromObject(message)).finish()),
        (bytes: Buffer) => responseType.toObject(responseType.decode(bytes), { longs: Number, defaults: true }) as Record<string, unknown>,
        request,
        { deadline: Date.now() + deadlineMs },
        (error: ServiceError | null, answer?: Record<string, unknown>) =>
          error === null && answer !== undefined ? resolve(answer) : reject(error),
      );
    });
  }
}

function sandboxConfig(pod: PodConfig): object {
  return {
    metadata: { name: pod.name, uid: `${pod.name}-uid`, namespace: "default", attempt: 0 },
    log_directory: pod.logDirectory ?? "",
    linux: { cgroup_parent: pod.cgroupParent ?? "", security_context: { namespace_options: { network: hostNetwork } } },
  };
}
