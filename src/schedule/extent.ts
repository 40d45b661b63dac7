// Sizes of a product as expressions.
import type { Expr, Exprs } from '../kernel/expr.ts';
import type { Extent } from '../kernel/kernel.ts';

/** The size of group z. */
export function sizeOf(e: Exprs, size: Extent, z: Expr): Expr {
  if (typeof size === 'number') return e.index(size);
  const load = (buffer: number, at: Expr): Expr => e.op('cast', [e.load(buffer, at, 'int32')], 'index');
  if ('count' in size) return e.scale(load(size.count, e.index(size.at)), size.times);
  return e.linear(0, [
    [1, load(size.offsets, e.add(z, e.index(1)))],
    [-1, load(size.offsets, z)],
  ]);
}
