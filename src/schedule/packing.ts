// In which direction an operand of a matmul is copied. The inner loop goes along the variable on which neighbouring
// elements lie next to each other in memory. Where the index divides that variable (a convolution: tap and channel are
// computed from one index), the copy goes in runs inside which nothing is divided.
import { postorder, type Exprs, type Expr, type Var } from '../kernel/expr.ts';
import type { BPanels, Packing } from './cpu-kernel.ts';
import { asSet, contiguous, dependsOn, strideOf, substitute } from '../kernel/rewrite.ts';

/** `usual` is the inner variable unless `other` is cheaper. */
export function packingOf(e: Exprs, value: Expr, usual: Var, other: Var): Packing {
  const [a, b] = [along(e, value, usual), along(e, value, other)];
  return b.cost < a.cost ? b.packing : a.packing;
}

/**
 * Whether the matrix b(k, j) lies in panels of `width` columns: its index is (a function of z) + apart * (j / width) +
 * width * k + j mod width.
 */
export function panelsOfB(b: Expr, { inner, run }: Packing, k: Var, j: Var, width = 0): BPanels | null {
  if (inner !== j || run?.length !== width || run.value.k !== 'load' || run.value.dtype !== 'float32') return null;
  const { index } = run.value,
    next = strideOf(index, run.index);
  // Inside a run, j mod width is j - width * run.
  return b.k === 'load' && next !== null && strideOf(index, k) === width && strideOf(index, j) === 1
    ? { width, apart: next + width }
    : null;
}

/** Cost of an element, roughly, in cycles. */
const START = 12,
  APART = 0.6,
  DIVISION = 2;

function along(e: Exprs, value: Expr, inner: Var): { packing: Packing; cost: number } {
  const length = runLength(value, inner),
    run = length === null ? null : splitRuns(e, value, inner, length);
  const own = run?.value ?? value,
    on = asSet(inner),
    memo = new Map<Expr, boolean>();
  const divides = postorder([own]).some((x) => division(x) !== null && dependsOn(x, on, memo));
  return {
    packing: { inner, run },
    cost: (contiguous(own, inner) ? 0 : APART) + (divides ? DIVISION : 0) + START / (length ?? Infinity),
  };
}

/**
 * The greatest length of runs of `v` inside which no quotient and no remainder needs a division; null if it would be 1,
 * or if nothing is divided.
 */
export function runLength(value: Expr, v: Var): number | null {
  let length = 0;
  for (const x of postorder([value])) {
    const by = division(x),
      stride = by === null ? 0 : strideOf(by.of, v);
    if (by !== null && stride !== null && stride !== 0) length = gcd(by.divisor / gcd(stride, by.divisor), length);
  }
  return length > 1 ? length : null;
}

export const runIndex = (e: Exprs, inner: Var, length: number): Var =>
  e.loop(Number.isFinite(inner.max) ? Math.floor(inner.max / length) + 1 : Infinity, 'u');

/** `value` in runs of `length`, and a variable for the number of the run. */
export function splitRuns(
  e: Exprs,
  value: Expr,
  inner: Var,
  length: number,
  index = runIndex(e, inner, length),
): NonNullable<Packing['run']> {
  const at = e.loop(length, 'q');
  // The position inside a run gets a variable with the range 0 to length - 1, so that divisions simplify; then it is
  // written in terms of `inner` again.
  const split = substitute(
    e,
    value,
    new Map([
      [
        inner,
        e.linear(0, [
          [length, index],
          [1, at],
        ]),
      ],
    ]),
  );
  return {
    length,
    index,
    value: substitute(
      e,
      split,
      new Map([
        [
          at,
          e.linear(0, [
            [1, inner],
            [-length, index],
          ]),
        ],
      ]),
    ),
  };
}

function division(x: Expr): { readonly of: Expr; readonly divisor: number } | null {
  if (x.k !== 'op' || x.dtype !== 'index' || (x.op !== 'div' && x.op !== 'mod') || x.args[1].k !== 'const') return null;
  return { of: x.args[0], divisor: x.args[1].value };
}

const gcd = (a: number, b: number): number => (b === 0 ? Math.abs(a) : gcd(b, a % b));
