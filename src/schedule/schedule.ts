// How a machine runs a kernel: Kernel and Target -> Scheduled. A schedule decides tasks, lanes, packing and blocks;
// results are the same for all of them.
import { VerifyError } from '../base/errors.ts';
import type { Kernel } from '../kernel/kernel.ts';
import { scheduleCpu } from './cpu.ts';
import type { CpuKernel } from './cpu-kernel.ts';
import type { GpuKernel } from './gpu-kernel.ts';
import type { Target } from './target.ts';
import { verifyCpu } from './verify.ts';

/** What emitters print and devices run. */
export type Scheduled = CpuKernel | GpuKernel;

export function schedule(kernel: Kernel, target: Target): Scheduled {
  return target.kind === 'cpu' ? verifyCpu(scheduleCpu(kernel, target)) : target.schedule(kernel, target);
}

/** The kernel, if it is one for a CPU: others cannot run here. */
export function forCpu(kernel: Scheduled): CpuKernel {
  if (kernel.form === 'threads') throw new VerifyError('schedule', 'a kernel for a GPU was given to a CPU');
  return kernel;
}

/** The kernel, if it is one for a GPU. */
export function forGpu(kernel: Scheduled): GpuKernel {
  if (kernel.form !== 'threads') throw new VerifyError('schedule', 'a kernel for a CPU was given to a GPU');
  return kernel;
}
