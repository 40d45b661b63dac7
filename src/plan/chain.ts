// Which step can run group by group with the step before it: both are grouped products over the same groups, and
// neither uses what the other stores, except the part of the same group. All products of one expert then run one after
// the other, while its weights are in the cache.
import type { Kernel } from '../kernel/kernel.ts';
import { groupsOf, shareOf } from '../kernel/groupwise.ts';
import type { PlannedTensor, Step } from './program.ts';

/** A step and what it runs. */
export interface Planned {
  readonly step: Step;
  readonly kernel: Kernel;
}

/** `before`: the steps that run group by group already; the last of them is the step before `next`. */
export function groupwiseAfter(
  tensors: readonly PlannedTensor[],
  before: readonly Planned[],
  next: Planned,
): Step['runsGroupwiseAfterPrevious'] {
  const own = groupsOf(next.kernel),
    head = before.length > 0 ? groupsOf(before[0].kernel) : null;
  if (!own || !head || own.groups !== head.groups) return undefined;
  const offsets = next.step.buffers[own.offsets];
  if (before[0].step.buffers[head.offsets] !== offsets) return undefined;
  return before.every((b) => apart(tensors, b, next)) ? { groups: own.groups, offsets } : undefined;
}

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

/** Whether two tensors have bytes in common. */
export function overlap(a: PlannedTensor, b: PlannedTensor): boolean {
  if (a.slab !== b.slab) return false;
  if (a.slab === 'state') return a.name === b.name;
  return a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes;
}
