// Operations on scalars: pushes the operands and writes the instruction.
import { VerifyError } from '../../base/errors.ts';
import type { Expr, OpExpr } from '../../kernel/expr.ts';
import { definitionOf, isElementary, type ScalarFunction } from '../../kernel/functions.ts';
import { needsCare } from '../../kernel/rewrite.ts';
import { I32, type Plain } from './binary.ts';
import type { Frame } from './frame.ts';
import { castScalar, divide, division, pushConstant, threefry, typeOf } from './words.ts';

/** What the operations need of `Values` (values.ts). */
export interface ScalarValues {
  readonly frame: Frame;
  /** Pushes the value of `e`. */
  scalar(e: Expr): void;
  /** Replaces a vector on the stack by the values of a function. */
  apply(f: ScalarFunction): void;
}

const ARITHMETIC: ReadonlySet<string> = new Set(['add', 'sub', 'mul', 'and', 'or', 'xor']);
const COMPARISONS: ReadonlySet<string> = new Set(['lt', 'le', 'eq', 'ne']);

/** Pushes the result of a scalar operation. */
export function scalarOperation(values: ScalarValues, e: OpExpr): void {
  const { f } = values.frame,
    [a, b, c] = e.args,
    of = a.dtype,
    t = of === 'float32' ? 'f32' : of === 'float64' ? 'f64' : 'i32';
  const push = (...xs: Expr[]): void => {
    xs.forEach((x) => {
      values.scalar(x);
    });
  };
  const sign = of === 'uint32' ? '_u' : '_s';
  const definition = definitionOf(e.op, of);
  if (definition) {
    push(a);
    f.simd('f32x4.splat');
    values.apply(definition);
    f.lane('f32x4.extract_lane', 0);
    return;
  }
  if (isElementary(e.op)) {
    push(a);
    f.call(values.frame.imported(e.op));
    return;
  }
  if (ARITHMETIC.has(e.op)) {
    push(a, b);
    f.op(`${t}.${e.op}` as Plain);
    return;
  }
  if (COMPARISONS.has(e.op)) {
    push(a, b);
    f.op(`${t}.${e.op}${t === 'i32' && e.op.startsWith('l') ? sign : ''}` as Plain);
    return;
  }
  switch (e.op) {
    case 'div':
      push(a, b);
      if (needsCare(of, b)) divide(f, of === 'int32');
      else f.op(t === 'i32' ? `i32.div${division(a)}` : `${t}.div`);
      return;
    case 'pow':
      push(a, b);
      f.call(values.frame.imported('pow'));
      return;
    case 'mod':
      push(a, b);
      f.op(`i32.rem${division(a)}`);
      return;
    case 'shl':
      push(a, b);
      f.op('i32.shl');
      return;
    case 'shr':
      push(a, b);
      f.op(of === 'uint32' ? 'i32.shr_u' : 'i32.shr_s');
      return;
    case 'neg':
      if (t === 'i32') {
        f.i32(0);
        push(a);
        f.op('i32.sub');
      } else {
        push(a);
        f.op(`${t}.neg`);
      }
      return;
    case 'abs':
    case 'sqrt':
    case 'floor':
    case 'round':
      if (e.op === 'abs' && of === 'uint32') {
        push(a);
        return;
      }
      if (e.op === 'abs' && of === 'int32') {
        push(a);
        const x = f.keep(I32);
        f.i32(0).get(x).op('i32.sub').get(x).get(x).i32(0).op('i32.lt_s', 'select');
        return;
      }
      if (t === 'i32') throw new VerifyError('emit', `no ${e.op} of ${of}`);
      push(a);
      f.op(`${t}.${e.op === 'round' ? 'nearest' : e.op}`);
      return;
    case 'not':
      push(a);
      f.op('i32.eqz');
      return;
    case 'isfinite': {
      // x - x is 0 for every finite x and NaN for the others
      push(a);
      if (t === 'i32') throw new VerifyError('emit', `no isfinite of ${of}`);
      const x = f.local(typeOf(of));
      f.tee(x).get(x).op(`${t}.sub`);
      pushConstant(f, 0, of);
      f.op(`${t}.eq`);
      return;
    }
    case 'min':
    case 'max': {
      const x = f.local(typeOf(of)),
        y = f.local(typeOf(of));
      push(a);
      f.tee(x);
      push(b);
      f.tee(y);
      f.get(x, y).op(`${t}.${e.op === 'min' ? 'lt' : 'gt'}${t === 'i32' ? sign : ''}` as Plain, 'select');
      return;
    }
    case 'select':
      push(b, c, a);
      f.op('select');
      return;
    case 'fma': {
      const wide = of === 'float64';
      if (!values.frame.fused) {
        push(a, b);
        f.op(`${t}.mul` as Plain);
        push(c);
        f.op(`${t}.add` as Plain);
        return;
      }
      for (const x of e.args) {
        push(x);
        f.simd(wide ? 'f64x2.splat' : 'f32x4.splat');
      }
      f.simd(wide ? 'f64x2.relaxed_madd' : 'f32x4.relaxed_madd').lane(
        wide ? 'f64x2.extract_lane' : 'f32x4.extract_lane',
        0,
      );
      return;
    }
    case 'bitcast':
      push(a);
      if (of !== e.dtype) f.op(of === 'float32' ? 'i32.reinterpret_f32' : 'f32.reinterpret_i32');
      return;
    case 'cast':
      push(a);
      castScalar(f, e.dtype, of);
      return;
    case 'threefry':
      f.get(
        threefry(
          f,
          e.args.map((x) => {
            values.scalar(x);
            return f.keep(I32);
          }),
          false,
        )[0],
      );
      return;
    default:
      throw new VerifyError('emit', `no WebAssembly for ${e.op}`);
  }
}
