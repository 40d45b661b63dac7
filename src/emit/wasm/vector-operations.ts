// Operations on vectors of four 32-bit lanes: pushes the operands and writes the instruction. Operations for which
// WebAssembly has no vector instruction (integer division) are computed lane by lane.
import { VerifyError } from '../../base/errors.ts';
import type { Expr, OpExpr } from '../../kernel/expr.ts';
import { definitionOf } from '../../kernel/functions.ts';
import { needsCare } from '../../kernel/rewrite.ts';
import { I32, V128, type Plain, type Simd } from './binary.ts';
import type { ScalarValues } from './scalar-operations.ts';
import { castVector, divide, division, threefry } from './words.ts';

/** What the operations need of `Values` (values.ts). */
export interface VectorValues extends ScalarValues {
  /** Whether the four lanes of `e` may differ. */
  isVector(e: Expr): boolean;
  /** Pushes a vector: the value of `e` for four successive values of the lane variable. */
  vector(e: Expr): void;
}

const COMPARISONS: ReadonlySet<string> = new Set(['lt', 'le', 'eq', 'ne']);

/** Pushes the result of an operation on vectors. */
export function vectorOperation(values: VectorValues, e: OpExpr): void {
  const { f } = values.frame,
    [a, b, c] = e.args,
    of = a.dtype,
    float = of === 'float32',
    t = float ? 'f32x4' : 'i32x4';
  const push = (...xs: Expr[]): void => {
    xs.forEach((x) => {
      values.vector(x);
    });
  };
  const sign = of === 'uint32' ? '_u' : '_s';
  const definition = definitionOf(e.op, of);
  if (definition) {
    push(a);
    values.apply(definition);
    return;
  }
  if (COMPARISONS.has(e.op)) {
    push(a, b);
    f.simd(
      of === 'bool' && e.op === 'ne'
        ? 'v128.xor'
        : (`${t}.${e.op}${!float && e.op.startsWith('l') ? sign : ''}` as Simd),
    );
    return;
  }
  switch (e.op) {
    case 'add':
    case 'sub':
    case 'mul':
      push(a, b);
      f.simd(`${t}.${e.op}`);
      return;
    case 'and':
    case 'or':
    case 'xor':
      push(a, b);
      f.simd(`v128.${e.op}`);
      return;
    case 'div':
      if (float) {
        push(a, b);
        f.simd('f32x4.div');
      } else
        laneByLane(values, a, b, () => {
          if (needsCare(of, b)) divide(f, of === 'int32');
          else f.op(`i32.div${division(a)}`);
        });
      return;
    case 'mod':
      laneByLane(values, a, b, () => {
        f.op(`i32.rem${division(a)}`);
      });
      return;
    case 'shl':
    case 'shr': {
      const shift = e.op === 'shl' ? 'shl' : `shr${sign}`;
      if (values.isVector(b)) {
        laneByLane(values, a, b, () => {
          f.op(`i32.${shift}` as Plain);
        });
        return;
      }
      push(a);
      values.scalar(b);
      f.simd(`i32x4.${shift}` as Simd);
      return;
    }
    case 'neg':
      push(a);
      f.simd(`${t}.neg`);
      return;
    case 'abs':
      push(a);
      if (of !== 'uint32') f.simd(float ? 'f32x4.abs' : 'i32x4.abs');
      return;
    case 'sqrt':
      push(a);
      f.simd('f32x4.sqrt');
      return;
    case 'floor':
      push(a);
      f.simd('f32x4.floor');
      return;
    case 'round':
      push(a);
      f.simd('f32x4.nearest');
      return;
    case 'not':
      push(a);
      f.simd('v128.not');
      return;
    case 'isfinite': {
      push(a);
      const x = f.local(V128);
      f.tee(x).get(x).simd('f32x4.sub').v128([0, 0, 0, 0]).simd('f32x4.eq');
      return;
    }
    // a < b ? a : b is pmin(b, a): the first operand unless the second is smaller
    case 'min':
      push(b, a);
      f.simd(float ? 'f32x4.pmin' : `i32x4.min${sign}`);
      return;
    case 'max':
      push(b, a);
      f.simd(float ? 'f32x4.pmax' : `i32x4.max${sign}`);
      return;
    case 'select':
      push(b, c, a);
      f.simd('v128.bitselect');
      return;
    case 'fma':
      push(a, b);
      if (!values.frame.fused) f.simd('f32x4.mul');
      push(c);
      f.simd(values.frame.fused ? 'f32x4.relaxed_madd' : 'f32x4.add');
      return;
    case 'bitcast':
      push(a);
      return;
    case 'cast':
      push(a);
      castVector(f, e.dtype, of);
      return;
    case 'threefry':
      f.get(
        threefry(
          f,
          e.args.map((x) => {
            values.vector(x);
            return f.keep(V128);
          }),
          true,
        )[0],
      );
      return;
    default:
      throw new VerifyError('emit', `no WebAssembly for ${e.op}`);
  }
}

/**
 * Pushes a vector: in each lane the result of `write` on that lane of `a` and of `b`. `write` replaces the two int32 on
 * the stack by one.
 */
function laneByLane(values: VectorValues, a: Expr, b: Expr, write: () => void): void {
  const { f } = values.frame,
    fixed = !values.isVector(b);
  values.vector(a);
  const x = f.keep(V128);
  if (fixed) values.scalar(b);
  else values.vector(b);
  const y = f.keep(fixed ? I32 : V128);
  f.get(x);
  for (let l = 0; l < 4; l++) {
    f.get(x).lane('i32x4.extract_lane', l).get(y);
    if (!fixed) f.lane('i32x4.extract_lane', l);
    write();
    f.lane('i32x4.replace_lane', l);
  }
}
