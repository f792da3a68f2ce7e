/** Progress of a conversion for a person at a terminal; silent anywhere else. */
import { MultiBar, type SingleBar } from "cli-progress";
import type { Output } from "../io.ts";

/** One layer on its way: read from the source, then written to the target. */
export interface LayerProgress {
  read(bytes: number): void;
  written(bytes: number, total: number): void;
  done(note: string): void;
}

export interface Progress {
  layer(name: string, totalBytes: number): LayerProgress;
  stop(): void;
}

const silentLayer: LayerProgress = { read() {}, written() {}, done() {} };
export const silentProgress: Progress = { layer: () => silentLayer, stop() {} };

export function createProgress(stderr: Output): Progress {
  if (!stderr.isTTY) return silentProgress;
  const bars = new MultiBar({
    stream: stderr as NodeJS.WriteStream,
    format: "{name} {bar} {percentage}% {megabytes} {step}",
    barCompleteChar: "█",
    barIncompleteChar: "░",
    hideCursor: true,
    clearOnComplete: false,
    fps: 8,
  });
  return {
    layer(name, totalBytes) {
      const bar = bars.create(Math.max(1, totalBytes), 0, { name, megabytes: "", step: "waiting" });
      return barProgress(bar, totalBytes);
    },
    stop: () => bars.stop(),
  };
}

function barProgress(bar: SingleBar, totalBytes: number): LayerProgress {
  let readBytes = 0;
  const megabytes = (bytes: number, total: number) => `${(bytes / 1e6).toFixed(1)}/${(total / 1e6).toFixed(1)} MB`;
  return {
    read(bytes) {
      readBytes += bytes;
      bar.update(readBytes, { step: "converting", megabytes: megabytes(readBytes, totalBytes) });
    },
    written(bytes, total) {
      bar.setTotal(Math.max(1, total));
      bar.update(bytes, { step: "writing", megabytes: megabytes(bytes, total) });
    },
    done(note) {
      bar.setTotal(1);
      bar.update(1, { step: note, megabytes: "" });
      bar.stop();
    },
  };
}
