// Schedules a whole program: its kernels, each once, and its steps.
import { keepRecent } from '../base/recent.ts';
import type { Kernel } from '../kernel/kernel.ts';
import type { Call } from '../lower/lowered.ts';
import type { Program } from '../plan/program.ts';
import { schedule, type Scheduled } from './schedule.ts';
import { scheduleSteps } from './steps.ts';
import type { Target } from './target.ts';

/** Schedules of earlier programs by kernel key, which need not be made again. */
export type ScheduleMemo = Map<string, Scheduled>;
/** How many are remembered: more than a model needs. */
const REMEMBERED = 4096;

/** The program as the target runs it, and the kernels of its steps. */
export function scheduleProgram(
  calls: readonly Call[],
  program: Program,
  target: Target,
  memo: ScheduleMemo,
): { readonly program: Program; readonly kernels: { readonly key: string; readonly kernel: Scheduled }[] } {
  const kernels = new Map<string, Scheduled>();
  const add = (key: string, kernel: Kernel): void => {
    kernels.set(key, keepRecent(memo, key, memo.get(key) ?? schedule(kernel, target), REMEMBERED));
  };
  for (const call of calls) if (call.kind === 'kernel') add(call.key, call.kernel);
  const scheduled = scheduleSteps(program, kernels, target, add);
  return { program: scheduled, kernels: [...kernels].map(([key, kernel]) => ({ key, kernel })) };
}
