// a to a constant power. In float32 small whole powers are products, others e^(p ln a). A power that is not whole, or
// above 64, is NaN below 0.
import { ShapeError } from '../../../base/errors.ts';
import type { Expr, Exprs } from '../../../kernel/expr.ts';
import type { DType } from '../../../base/dtype.ts';
import { emit1, scalar, type Tensor } from '../../tensor.ts';
import { elementwise, withOp } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    pow: PowAttrs;
  }
}

type PowAttrs = { readonly p: number };

const isSmall = (p: number): boolean => Number.isInteger(p) && Math.abs(p) <= 64;

const powOp = elementwise<PowAttrs>({
  // a^p
  name: 'pow',
  arity: 1,
  takes: 'floats',
  weight: 20,
  grad: ({ inputs: [a], attrs: { p } }, dout) => [
    p === 0 ? null : emit1('mul', [dout, emit1('mul', [emit1('pow', [a], { p: p - 1 }), scalar(a, p)])]),
  ],
  dtype([dtype], { p }) {
    if (!Number.isFinite(p)) throw new ShapeError(`pow: the power must be a finite number, got ${String(p)}`);
    return dtype;
  },
  expr(e, [a], dtype, { attrs: { p } }) {
    if (dtype === 'float64' && !(isSmall(p) && Math.abs(p - 0.5) < 2)) return powerOf(e, a, p);
    if (!isSmall(p)) return e.op('exp', [e.op('mul', [e.op('log', [a]), e.const(p, dtype)])]);
    const whole = power(e, a, Math.abs(p), dtype);
    return p < 0 ? e.op('div', [e.const(1, dtype), whole]) : whole;
  },
  value: ([a], { p }) => (isSmall(p) ? a ** p : a < 0 ? NaN : Math.abs(a) ** p),
});

/** Of a float64, rounded once. */
function powerOf(e: Exprs, a: Expr, p: number): Expr {
  const power = e.const(p, 'float64');
  if (isSmall(p)) return e.op('pow', [a, power]);
  return e.select(e.lt(a, e.const(0, 'float64')), e.const(NaN, 'float64'), e.op('pow', [e.op('abs', [a]), power]));
}

/** By repeated squaring. */
function power(e: Exprs, a: Expr, p: number, dtype: DType): Expr {
  if (p === 0) return e.const(1, dtype);
  if (p === 1) return a;
  const half = power(e, a, Math.floor(p / 2), dtype),
    square = e.op('mul', [half, half]);
  return p % 2 ? e.op('mul', [square, a]) : square;
}

/** a^p for a number p. Whole powers up to 64 take any a, others only a >= 0. */
export const pow = withOp(powOp, (a: Tensor, p: number): Tensor => emit1('pow', [a], { p }));
