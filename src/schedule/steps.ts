// Steps as a machine runs them. A copy becomes a kernel. For CPUs also: how many kernels run at the same time, and
// which products run group by group with the step before them. Two steps can run group by group if both are grouped
// products over the same groups, and neither uses what the other stores, except the part of the same group. All
// products of one expert then run one after the other, while its weights are in the cache.
import { groupsOf } from '../kernel/groups.ts';
import type { Kernel } from '../kernel/kernel.ts';
import { overlap } from '../plan/overlap.ts';
import type { KernelStep, PlannedTensor, Program, Step } from '../plan/program.ts';
import { copyKernel } from './copy.ts';
import { shareOf } from '../kernel/shares.ts';
import type { Target } from './target.ts';

/**
 * The same program with more barriers, with copies as kernels, and with products that run group by group. `kernels`: of
 * the program, by key, before they are scheduled; the kernels of copies are added to it.
 */
export function scheduleSteps(program: Program, kernels: Map<string, Kernel>, target: Target): Program {
  if (target.kind !== 'cpu') return { ...program, steps: program.steps.map(copied) };
  const { wave, groupwise } = target;
  let length = 0,
    chain: Planned[] = [];
  const steps = program.steps.map((given, i): Step => {
    const barrier = given.barrier || (i > 0 && length >= wave),
      step = { ...copied(given), barrier },
      kernel = step.kind === 'kernel' ? kernels.get(step.kernel) : undefined;
    length = barrier ? 1 : length + 1;
    if (!groupwise || step.kind !== 'kernel' || !kernel || step.bySlot) {
      chain = [];
      return step;
    }
    const planned = { step, kernel },
      after = barrier ? groupwiseAfter(program.tensors, chain, planned) : undefined;
    chain = after ? [...chain, planned] : [planned];
    return after ? { ...step, runsGroupwiseAfterPrevious: after } : step;
  });
  return { ...program, steps };

  function copied(step: Step): Step {
    if (step.kind !== 'copy') return step;
    const { key, kernel } = copyKernel(program.tensors[step.buffers[0]].type);
    kernels.set(key, kernel);
    return { ...step, kind: 'kernel', kernel: key, ints: [] };
  }
}

/** A step and what it runs. */
export interface Planned {
  readonly step: KernelStep;
  readonly kernel: Kernel;
}

/** `before`: the steps that run group by group already; the last of them is the step before `next`. */
export function groupwiseAfter(
  tensors: readonly PlannedTensor[],
  before: readonly Planned[],
  next: Planned,
): KernelStep['runsGroupwiseAfterPrevious'] {
  const own = groupsOnCore(next.kernel),
    head = before.length > 0 ? groupsOnCore(before[0].kernel) : null;
  if (!own || !head || own.groups !== head.groups) return undefined;
  const offsets = next.step.buffers[own.offsets];
  if (before[0].step.buffers[head.offsets] !== offsets) return undefined;
  return before.every((b) => apart(tensors, b, next)) ? { groups: own.groups, offsets } : undefined;
}

/** The groups of a product that runs on the matrix core, which computes in float32. */
const groupsOnCore = (kernel: Kernel): ReturnType<typeof groupsOf> =>
  kernel.form === 'matmul' && kernel.dtype === 'float32' ? groupsOf(kernel) : null;

function apart(tensors: readonly PlannedTensor[], a: Planned, b: Planned): boolean {
  const flagged = (x: Planned, y: Planned): boolean =>
    x.step.unless !== null &&
    y.step.buffers.some((t, n) => y.step.writes[n] && overlap(tensors[x.step.unless ?? t], tensors[t]));
  if (flagged(a, b) || flagged(b, a)) return false;
  return a.step.buffers.every((t, n) =>
    b.step.buffers.every((u, m) => {
      if ((!a.step.writes[n] && !b.step.writes[m]) || !overlap(tensors[t], tensors[u])) return true;
      if (a.kernel.form !== 'matmul' || b.kernel.form !== 'matmul' || tensors[t].offset !== tensors[u].offset)
        return false;
      const share = shareOf(a.kernel, n);
      return (
        share !== null && share === shareOf(b.kernel, m) && a.kernel.buffers[n].dtype === b.kernel.buffers[m].dtype
      );
    }),
  );
}
