// What a session needs from its surroundings: devices, threads, memory, files. Implemented by web.ts (any JavaScript
// engine) and node.ts. The platform is passed as an argument; nothing is registered globally, so a bundle contains
// only what it uses.
import type { Device } from '../device/device.ts';
import type { Checkpoint, CheckpointContent } from '../io/checkpoint.ts';

export const DEVICES = ['auto', 'native', 'wasm', 'reference'] as const;
export type DeviceName = (typeof DEVICES)[number];

export interface DeviceRequest {
  readonly threads: number;
  /** Memory limit for weights, optimizer and activations in bytes. */
  readonly memory: number;
  /** Receives one line when `auto` could not choose the fastest device. */
  readonly say: (line: string) => void;
}

/** Checkpoint files by path. */
export interface Files {
  save(path: string, content: CheckpointContent): Promise<void>;
  load(path: string): Promise<Checkpoint>;
}

export interface Platform {
  /** Opens a device. Throws UserError if this platform does not have it. */
  open(device: Exclude<DeviceName, 'reference'>, request: DeviceRequest): Promise<Device>;
  /** Default number of threads. */
  threads(): number;
  /** Free memory in bytes; Infinity where it is unknown. */
  freeMemory(): number;
  readonly files: Files | null;
}

export const PRECISIONS = ['float32', 'bfloat16', 'bfloat16-weights'] as const;
/**
 * float32: everything. bfloat16: activations, and what is saved for gradients, are stored in bfloat16; parameters in
 * float32. bfloat16-weights: weights, embeddings, heads and their moments too; their updates are rounded
 * stochastically. In all of them sums, routers, softmax, norms and losses are computed in float32.
 */
export type Precision = (typeof PRECISIONS)[number];
