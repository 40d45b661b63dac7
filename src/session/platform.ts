// What a session needs from its surroundings: devices, threads, memory, files. Implemented by web.ts (any JavaScript
// engine) and node.ts. The platform is passed as an argument; nothing is registered globally, so a bundle contains
// only what it uses.
import type { Device } from '../device/device.ts';
import type { Ranks } from '../device/ranks.ts';
import type { Checkpoint, CheckpointContent } from '../io/checkpoint.ts';
import type { Group, GroupOptions } from './ranks.ts';

export const DEVICES = ['auto', 'native', 'wasm', 'cuda', 'reference'] as const;
/** `cuda` is the first GPU; `cuda:1` the second; `cuda:GPU-8f2c` the one whose UUID begins so. */
export type GpuName = 'cuda' | `cuda:${string}`;
export type DeviceName = (typeof DEVICES)[number] | GpuName;

export const isGpu = (device: unknown): device is GpuName =>
  device === 'cuda' || (typeof device === 'string' && device.startsWith('cuda:'));
export const isDevice = (device: unknown): device is DeviceName =>
  isGpu(device) || DEVICES.some((name) => name === device);
/** What `isDevice` takes, for messages. */
export const DEVICE_NAMES = `${DEVICES.join(', ')}; a certain GPU is cuda:1 or cuda:GPU-UUID`;

export interface DeviceRequest {
  readonly threads: number;
  /** Memory limit for weights, optimizer and activations in bytes. */
  readonly memory: number;
  /** Receives one line when `auto` chooses a GPU, or could not choose the fastest device. */
  readonly say: (line: string) => void;
  /** Threads were asked for: `auto` chooses a CPU. */
  readonly onCpu?: boolean | undefined;
  /** The ranks with which the device exchanges data; absent: one process. */
  readonly ranks?: Ranks | undefined;
}

/** Checkpoint files by path. */
export interface Files {
  save(path: string, content: CheckpointContent): Promise<void>;
  load(path: string): Promise<Checkpoint>;
}

export interface Platform {
  /** Opens a device. Throws UserError if this platform does not have it. */
  open(device: Exclude<DeviceName, 'reference'>, request: DeviceRequest): Promise<Device>;
  /** Default number of threads: of all processes, or of each of these ranks (every rank calls it). */
  threads(ranks?: Ranks): number;
  /** Free memory in bytes; Infinity where it is unknown. */
  freeMemory(): number;
  readonly files: Files | null;
  /** Makes a session of several ranks possible; absent on platforms that have none. */
  readonly group?: (ranks: Ranks, options: GroupOptions) => Group;
}

export const PRECISIONS = ['float32', 'bfloat16', 'bfloat16-weights'] as const;
/**
 * float32: everything. bfloat16: activations, and what is saved for gradients, are stored in bfloat16; parameters in
 * float32. bfloat16-weights: weights, embeddings, heads and their moments too; their updates are rounded
 * stochastically. In all of them sums, routers, softmax, norms and losses are computed in float32.
 */
export type Precision = (typeof PRECISIONS)[number];
