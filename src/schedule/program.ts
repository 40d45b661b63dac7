// Schedules a whole program: its kernels, each once, and its steps.
import { keepRecent } from '../base/recent.ts';
import type { Kernel } from '../kernel/kernel.ts';
import type { Call } from '../lower/lowered.ts';
import type { Program } from '../plan/program.ts';
import { schedule, type Scheduled } from './schedule.ts';
import { scheduleSteps } from './steps.ts';
import type { Target } from './target.ts';

/**
 * A kernel of a program. It is scheduled when `kernel` is first read: a device that finds the kernel compiled, in
 * memory or on disk, never reads it.
 */
export class ProgramKernel {
  readonly key: string;
  readonly #lowered: Kernel;
  readonly #target: Target;
  #scheduled: Scheduled | undefined;

  constructor(key: string, lowered: Kernel, target: Target) {
    this.key = key;
    this.#lowered = lowered;
    this.#target = target;
  }

  get kernel(): Scheduled {
    return (this.#scheduled ??= schedule(this.#lowered, this.#target));
  }
}

/** Kernels of earlier programs by key: each is scheduled at most once. */
export type ScheduleMemo = Map<string, ProgramKernel>;
/** How many are remembered: more than a model needs. */
const REMEMBERED = 4096;

/** The program as the target runs it, and the kernels of its steps. */
export function scheduleProgram(
  calls: readonly Call[],
  program: Program,
  target: Target,
  memo: ScheduleMemo,
): { readonly program: Program; readonly kernels: readonly ProgramKernel[] } {
  const lowered = new Map<string, Kernel>();
  for (const call of calls) if (call.kind === 'kernel') lowered.set(call.key, call.kernel);
  const scheduled = scheduleSteps(program, lowered, target);
  const kernels = [...lowered].map(([key, kernel]) =>
    keepRecent(memo, key, memo.get(key) ?? new ProgramKernel(key, kernel, target), REMEMBERED),
  );
  return { program: scheduled, kernels };
}
