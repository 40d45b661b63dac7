// Which part of a buffer a grouped product reads or writes for one of its groups. If two such products use, of every
// buffer that they share, only the part of the same group, they can run group by group: both for the first group, then
// both for the next, instead of one product as a whole after the other.
import { maxOf, minOf, postorder, type Expr } from './expr.ts';
import { groupedBy } from './groups.ts';
import type { MatmulKernel } from './kernel.ts';

/**
 * The part of a buffer that group z uses. 'rows W': rows offsets[z] to offsets[z + 1] of W elements. 'part S': elements
 * z S to (z + 1) S. null: neither, as far as is known.
 */
export function shareOf(kernel: MatmulKernel, buffer: number): string | null {
  const ragged = groupedBy(kernel),
    known = new Map<number, Expr>(),
    values: Expr[] = [kernel.a, kernel.b],
    indices: Expr[] = [];
  if (!ragged) return null;
  for (const s of [...kernel.epilogue.row, ...kernel.epilogue.element]) {
    if (s.s === 'store') {
      values.push(s.value, s.index);
      if (s.buffer === buffer) indices.push(s.index);
    } else if (s.s === 'set' && s.index === null && !known.has(s.local)) {
      values.push(s.value);
      known.set(s.local, s.value);
    } else return null;
  }
  for (const e of postorder(values)) if (e.k === 'load' && e.buffer === buffer) indices.push(e.index);
  const shares = new Set(indices.map((index) => shareAt(kernel, ragged, known, index)));
  return shares.size === 1 ? [...shares][0] : null;
}

function shareAt(
  { z, i, j, k }: MatmulKernel,
  ragged: { readonly offsets: number; readonly index: Expr },
  known: ReadonlyMap<number, Expr>,
  index: Expr,
): string | null {
  const terms = index.k === 'linear' ? index.terms : [[1, index] as const];
  let most = index.k === 'linear' ? index.constant : 0,
    rows = 0,
    starts = 0,
    part = 0;
  if (most < 0) return null;
  for (const [c, t] of terms) {
    const own = t.k === 'local' && t.index === null ? (known.get(t.local) ?? t) : t;
    if (c <= 0) return null;
    if (own === z) part = c;
    else if (own === ragged.index) rows = c;
    else if (isStart(own, ragged.offsets, z)) starts = c;
    else if ((own === i || own === j || own === k) && Number.isFinite(maxOf(own)) && minOf(own) >= 0)
      most += c * maxOf(own);
    else return null;
  }
  if (part > 0) return rows === 0 && starts === 0 && most < part ? `part ${part}` : null;
  return starts > 0 && rows === starts && most < starts ? `rows ${starts}` : null;
}

/** Whether e is offsets[z]. */
const isStart = (e: Expr, offsets: number, z: Expr): boolean =>
  e.k === 'op' && e.op === 'cast' && e.args[0].k === 'load' && e.args[0].buffer === offsets && e.args[0].index === z;
