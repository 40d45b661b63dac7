// How a matmul uses memory: operands that lie in memory with constant strides, and what the epilogue reads and writes.
import { postorder, type Expr, type Var } from '../../kernel/expr.ts';
import { strideOf } from '../../kernel/rewrite.ts';
import type { CpuMatmul } from '../../schedule/cpu-kernel.ts';

export interface Place {
  readonly buffer: number;
  readonly index: Expr;
}
interface Direct extends Place {
  readonly s0: number;
  readonly s1: number;
}
interface Touched extends Place {
  readonly si: number;
}

/**
 * A load whose index is (a function of z) + s0 * first + s1 * second, with one stride of 1: such an operand need not be
 * packed. Null for any other.
 */
export function direct(e: Expr, first: Var, second: Var): Direct | null {
  if (e.k !== 'load' || e.dtype !== 'float32') return null;
  const s0 = strideOf(e.index, first),
    s1 = strideOf(e.index, second);
  return s0 === null || s1 === null || (s0 !== 1 && s1 !== 1) ? null : { buffer: e.buffer, index: e.index, s0, s1 };
}

/**
 * Up to two buffers whose elements the epilogue uses row by row, with the same distance `si` between rows: the core
 * prefetches them. Buffers that are read and written come first, then those that are only written.
 */
export function touchedBy({ epilogue: { element }, i, j, buffers }: CpuMatmul): Touched[] {
  const found: Touched[] = [];
  for (const s of element) {
    if (s.s !== 'store') continue;
    const si = strideOf(s.index, i),
      read = postorder([s.value]).find((e) => e.k === 'load' && e.index === s.index);
    if (si === null || strideOf(s.index, j) !== 1 || (found.length > 0 && found[0].si !== si)) continue;
    for (const buffer of read?.k === 'load' ? [read.buffer, s.buffer] : [s.buffer])
      if (buffers[buffer].dtype === 'float32') found.push({ buffer, index: s.index, si });
  }
  return found.slice(0, 2);
}

/** Whether the epilogue only stores the sums. */
export function isPlain({ epilogue: { element }, buffers }: CpuMatmul): boolean {
  const [only] = element;
  return (
    element.length === 1 && only.s === 'store' && only.value.k === 'sum' && buffers[only.buffer].dtype === 'float32'
  );
}
