// Which tensors of a program have bytes in common.
import type { PlannedTensor } from './program.ts';

/** Whether two tensors have bytes in common. */
export function overlap(a: PlannedTensor, b: PlannedTensor): boolean {
  if (a.slab !== b.slab) return false;
  if (a.slab === 'state') return a.name === b.name;
  return a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes;
}
