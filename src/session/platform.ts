// What a session needs of where it runs: devices, threads, memory, files. Two implementations: web.ts (any JavaScript
// engine) and node.ts. Whoever calls hands it over: nothing is registered anywhere, so a bundle holds only what it
// uses.
import type { Device } from '../device/device.ts';
import type { Checkpoint, CheckpointContent } from '../io/checkpoint.ts';

export const DEVICES = ['auto', 'native', 'wasm', 'reference'] as const;
export type DeviceName = (typeof DEVICES)[number];

export interface DeviceRequest {
  readonly threads: number;
  /** Memory limit for weights, optimizer and activations in bytes. */
  readonly memory: number;
  /** Told in one line where `auto` is not the best there could be. */
  readonly say: (line: string) => void;
}

/** Where checkpoints are kept by path. */
export interface Files {
  save(path: string, content: CheckpointContent): Promise<void>;
  load(path: string): Promise<Checkpoint>;
}

export interface Platform {
  /** Opens a device. Throws UserError where there is none of that name. */
  open(device: Exclude<DeviceName, 'reference'>, request: DeviceRequest): Promise<Device>;
  /** How many threads a device gets where nobody says. */
  threads(): number;
  /** Bytes that are free; Infinity where that cannot be known. */
  freeMemory(): number;
  readonly files: Files | null;
}
