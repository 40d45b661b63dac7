// How a machine runs a kernel: Kernel and Target -> Scheduled. A schedule decides tasks, lanes, packing and blocks;
// results are the same for all of them.
import type { Kernel } from '../kernel/kernel.ts';
import { scheduleCpu } from './cpu.ts';
import type { CpuKernel } from './cpu-kernel.ts';
import type { CpuTarget } from './target.ts';
import { verifyCpu } from './verify.ts';

/** What emitters print and devices run. */
export type Scheduled = CpuKernel;

export function schedule(kernel: Kernel, target: CpuTarget): Scheduled {
  return verifyCpu(scheduleCpu(kernel, target));
}
