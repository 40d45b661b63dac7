// Expressions as C. Every operation becomes one constant of the block it stands in: a shared value is computed once,
// and rounding happens exactly where the kernel language says.
import { VerifyError } from '../../base/errors.ts';
import { isHalf, toHalf } from '../../base/half.ts';
import { postorder, type Expr, type OpExpr, type Scalar, type Term } from '../../kernel/expr.ts';

const TYPES: Readonly<Record<Scalar, string>> = {
  float64: 'double',
  float32: 'float',
  bfloat16: 'uint16_t',
  float16: 'uint16_t',
  int32: 'int32_t',
  uint32: 'uint32_t',
  bool: 'uint8_t',
  index: 'int64_t',
};

export const cType = (dtype: Scalar): string => TYPES[dtype];

/** Bools are int32 in C: a loop that mixes widths of values is not vectorised. */
const valueType = (dtype: Scalar): string => (dtype === 'bool' ? 'int32_t' : cType(dtype));

const CALLS: Readonly<Record<string, string>> = {
  sqrt: 'sqrt',
  exp: 'exp',
  log: 'log',
  tanh: 'tanh',
  sigmoid: 'sigmoid',
  erf: 'erf',
  sin: 'sin',
  cos: 'cos',
  pow: 'pow',
};
const INFIX: Readonly<Record<string, string>> = {
  add: '+',
  sub: '-',
  mul: '*',
  mod: '%',
  lt: '<',
  le: '<=',
  eq: '==',
  ne: '!=',
  and: '&',
  or: '|',
  xor: '^',
  shr: '>>',
};

export function literal(value: number, dtype: Scalar): string {
  if (dtype === 'float32' || dtype === 'float64') {
    const f = dtype === 'float32';
    if (Number.isNaN(value)) return f ? '__builtin_nanf("")' : '__builtin_nan("")';
    if (!Number.isFinite(value)) return `${value < 0 ? '-' : ''}${f ? '__builtin_inff()' : '__builtin_inf()'}`;
    const x = f ? Math.fround(value) : value;
    const text =
      Number.isInteger(x) && Math.abs(x) < 1e15 ? `${Object.is(x, -0) ? '-0' : x}.0` : x.toExponential(f ? 9 : 17);
    return f ? `${text}f` : text;
  }
  if (isHalf(dtype)) return `${toHalf(dtype, [value])[0]}`;
  if (!Number.isInteger(value)) throw new VerifyError('emit', `${value} is no ${dtype}`);
  if (dtype === 'bool') return value ? '1' : '0';
  if (dtype === 'uint32') return `${value >>> 0}u`;
  if (dtype === 'int32' && value === -0x80000000) return 'INT32_MIN';
  return dtype === 'index' ? `INT64_C(${value})` : `${value}`;
}

/**
 * Writes the expressions of one block. `names`: C names of expressions that are computed already, in this block or an
 * outer one.
 */
export class ExprWriter {
  readonly lines: string[] = [];
  readonly #names: Map<Expr, string>;
  constructor(outer: ReadonlyMap<Expr, string> = new Map()) {
    this.#names = new Map(outer);
  }

  /** Gives C text for the value of `e`; adds the statements that compute it to `lines`. */
  value(e: Expr): string {
    for (const x of postorder([e])) {
      if (this.#names.has(x) || !(x.k === 'op' || x.k === 'load')) continue;
      const name = `v${x.id}`;
      this.lines.push(`const ${valueType(x.dtype)} ${name} = ${this.#text(x)};`);
      this.#names.set(x, name);
    }
    return this.#ref(e);
  }

  #ref(e: Expr): string {
    return this.#names.get(e) ?? this.#text(e);
  }

  #text(e: Expr): string {
    const r = (x: Expr): string => this.#ref(x);
    switch (e.k) {
      case 'var':
        return e.name;
      case 'const':
        return literal(e.value, e.dtype);
      case 'int':
        return `n${e.slot}`;
      case 'load':
        return `b${e.buffer}[${r(e.index)}]`;
      case 'local':
        return e.index ? `t${e.local}[${r(e.index)}]` : `t${e.local}`;
      case 'sum':
        return 'sum';
      case 'linear':
        return this.#linear(e.constant, e.terms, r);
      case 'op':
        return this.#op(e, e.args.map(r));
      case 'reduce':
        throw new VerifyError('emit', 'a reduction is still inside an expression');
    }
  }

  #linear(constant: number, terms: readonly Term[], value: (e: Expr) => string): string {
    const products = terms.map(([c, t]) => (c === 1 ? value(t) : `${literal(c, 'index')} * ${value(t)}`));
    return `(${[...products, ...(constant ? [literal(constant, 'index')] : [])].join(' + ')})`;
  }

  #op(e: OpExpr, a: readonly string[]): string {
    const [of] = e.args,
      single = of.dtype === 'float32';
    switch (e.op) {
      case 'cast':
        return cast(e.dtype, of.dtype, a[0]);
      case 'select':
        return `(${a[0]} ? ${a[1]} : ${a[2]})`;
      case 'fma':
        return `__builtin_fma${single ? 'f' : ''}(${a.join(', ')})`;
      case 'neg':
        return `(- ${a[0]})`;
      case 'not':
        return `(!${a[0]})`;
      case 'abs':
        if (of.dtype === 'uint32') return a[0];
        return of.dtype === 'int32'
          ? `(${a[0]} < 0 ? - ${a[0]} : ${a[0]})`
          : `__builtin_fabs${single ? 'f' : ''}(${a[0]})`;
      case 'div':
        if ((of.dtype === 'int32' || of.dtype === 'uint32') && !isPlainDivisor(e.args[1]))
          return `dm_div_${of.dtype}(${a.join(', ')})`;
        return `(${a[0]} / ${a[1]})`;
      // rint rounds halves to the even number: no program changes the rounding mode.
      case 'floor':
      case 'round':
        return `__builtin_${e.op === 'floor' ? 'floor' : 'rint'}${single ? 'f' : ''}(${a[0]})`;
      // x - x is 0 for every finite x and NaN for the others
      case 'isfinite':
        return `((${a[0]} - ${a[0]}) == 0)`;
      case 'min':
        return `(${a[0]} < ${a[1]} ? ${a[0]} : ${a[1]})`;
      case 'max':
        return `(${a[0]} > ${a[1]} ? ${a[0]} : ${a[1]})`;
      case 'threefry':
        return `dm_threefry_first(${a.join(', ')})`;
      default: {
        const infix = INFIX[e.op];
        if (infix) return `(${a[0]} ${infix} ${a[1]})`;
        const call = CALLS[e.op];
        if (!call) throw new VerifyError('emit', `no C for ${e.op}`);
        if (call === 'sqrt') return `__builtin_sqrt${single ? 'f' : ''}(${a[0]})`;
        return `dm_${call}${single ? 'f' : ''}(${a.join(', ')})`;
      }
    }
  }
}

/** Whether C's division by it is defined for every integer. */
export const isPlainDivisor = (e: Expr): boolean => e.k === 'const' && e.value !== 0 && e.value !== -1;

/**
 * Conversions with one defined result for every input: floats to integers are truncated and clamped to the range, NaN
 * becomes 0; integers keep their bits.
 */
function cast(to: Scalar, from: Scalar, x: string): string {
  const float = (d: Scalar): boolean => d === 'float32' || d === 'float64';
  if (isHalf(from)) return from === to ? x : cast(to, 'float32', `dm_from_${from}(${x})`);
  if (isHalf(to)) return `dm_to_${to}(${from === 'float32' ? `dm_bits(${x})` : `dm_odd(${x})`})`;
  if (to === 'bool') return `(${x} != 0)`;
  if (float(from) && !float(to)) return `dm_to_${to === 'uint32' ? 'uint32' : 'int32'}(${x})`;
  return `((${cType(to)})${x})`;
}
