// What the compiler knows of a machine. A device hands out its target as plain data; lowering and scheduling read it.
import { DTYPES } from '../base/dtype.ts';
import type { OpTable } from '../graph/builder.ts';
import type { Graph } from '../graph/graph.ts';
import type { Limits } from '../graph/limits.ts';
import type { Kernel } from '../kernel/kernel.ts';
import type { Call, Lowered } from '../lower/lowered.ts';
import type { Exchanges } from '../lower/task.ts';
import type { GpuKernel } from './gpu-kernel.ts';

/** A processor with a cache and vector lanes: kernels are divided into tasks, which threads run. */
export interface CpuTarget {
  readonly kind: 'cpu';
  readonly limits: Limits;
  /** Elements of work in a task: some microseconds. */
  readonly task: number;
  /** Whether code of the device runs small products and transposes inside kernels. */
  readonly core: boolean;
  /** Whether a kernel can say what it will read soon. */
  readonly prefetch: boolean;
  /** Whether grouped products can run one group after the other, all products of a group at once. */
  readonly groupwise: boolean;
  /** How many kernels may run at the same time. */
  readonly wave: number;
  /** Of a device that is one of several ranks. It is part of the target so that other programs need not contain it. */
  readonly ranks?: RankStages;
}

/** What the compiler does for many ranks (device/native/rank-stages.ts). */
export interface RankStages {
  /** From the graph of the global batch, the graph that each rank runs. */
  graph(graph: Graph, ops: OpTable): Graph;
  /** The order of kernels and exchanges. */
  readonly exchanges: Exchanges;
  /** Kernels and exchanges, each exchange in two calls where others can run between them. */
  divide(lowered: Lowered): readonly Call[];
}

/** A graphics processor: blocks of threads that share memory and wait for each other. */
export interface GpuTarget {
  readonly kind: 'gpu';
  readonly limits: Limits;
  /** Threads of a block. */
  readonly threads: number;
  /** Bytes of memory that the threads of a block share. */
  readonly shared: number;
  /** How many blocks start at most: as many as run at the same time. */
  readonly blocks: number;
  /** The schedule (gpu.ts). It is part of the target so that programs without a GPU need not contain it. */
  readonly schedule: (kernel: Kernel, target: GpuTarget) => GpuKernel;
}

export type Target = CpuTarget | GpuTarget;

export const ranksOf = (target: Target): RankStages | undefined => (target.kind === 'cpu' ? target.ranks : undefined);

/** What a kernel can do on CPUs, and on GPUs that have pointers: anything. */
export const ANYTHING: Limits = {
  buffers: null,
  inPlace: true,
  dtypes: DTYPES,
  panels: null,
  tile: 16,
  storedRows: 256,
};

/** C code and its matrix core. A device adds the panels of its processor's micro-kernel. */
export const NATIVE: CpuTarget = {
  kind: 'cpu',
  limits: ANYTHING,
  task: 8192,
  core: true,
  prefetch: true,
  groupwise: true,
  wave: 64,
};

/** WebAssembly. */
export const WASM: CpuTarget = { ...NATIVE, core: false, prefetch: false, groupwise: false };
