// Products whose rows or depth lie in groups between offsets, such as the products of experts.
import type { Expr } from './expr.ts';
import type { MatmulKernel } from './kernel.ts';

type Sizes = Pick<MatmulKernel, 'groups' | 'm' | 'depth' | 'i' | 'k'>;

/** The number of groups, and the buffer of their offsets; null if the product is not grouped. */
export function groupsOf(
  kernel: { readonly form: 'loops' } | ({ readonly form: 'matmul' } & Sizes),
): { readonly groups: number; readonly offsets: number } | null {
  const by = kernel.form === 'matmul' ? groupedBy(kernel) : null;
  return by && kernel.form === 'matmul' ? { groups: kernel.groups, offsets: by.offsets } : null;
}

/** The buffer of offsets, and the variable that goes over the rows of a group. */
export function groupedBy({ m, depth, i, k }: Sizes): { readonly offsets: number; readonly index: Expr } | null {
  if (typeof m === 'object' && 'offsets' in m) return { offsets: m.offsets, index: i };
  return typeof depth === 'object' && 'offsets' in depth ? { offsets: depth.offsets, index: k } : null;
}
