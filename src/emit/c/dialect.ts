// C11 with the builtins of gcc and clang, and the helpers of device/native: math.h, kernel.h.
import { isHalf } from '../../base/half.ts';
import type { Expr, OpExpr, Scalar } from '../../kernel/expr.ts';
import type { Matrix } from '../../kernel/kernel.ts';
import { isElementary } from '../../kernel/functions.ts';
import { needsCare } from '../../kernel/rewrite.ts';
import type { CoreStmt, Dialect } from '../clike/dialect.ts';
import { digits } from '../clike/text.ts';

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

/** Of an element in memory. */
export const cType = (dtype: Scalar): string => TYPES[dtype];

/** Of a value. Bools and 16-bit floats are int32: a loop that mixes widths of values is not vectorised. */
const valueType = (dtype: Scalar): string => cType(dtype === 'bool' || isHalf(dtype) ? 'int32' : dtype);

const isFloat = (dtype: Scalar): boolean => dtype === 'float32' || dtype === 'float64';
const suffix = (dtype: Scalar): string => ({ float32: 'f', uint32: 'u' })[dtype as string] ?? '';

/** Builtins on float32 and float64. rint rounds halves to the even number: no program changes the rounding mode. */
const BUILTINS: Readonly<Record<string, string>> = {
  fma: 'fma',
  abs: 'fabs',
  sqrt: 'sqrt',
  floor: 'floor',
  round: 'rint',
};

export const C: Dialect = {
  typeOf: (e) => e.dtype,
  literal,
  constant: (dtype, name, value) => `const ${valueType(dtype)} ${name} = ${value};`,
  variable: (dtype, name, value) => `${cType(dtype)} ${name}${value === null ? '' : ` = ${value}`};`,
  array: (dtype, name, length) => `${cType(dtype)} ${name}[${length}] __attribute__((aligned(64)));`,
  functionHead: (name, dtype, argument) => `static inline ${cType(dtype)} ${name}(${cType(dtype)} ${argument}) `,
  cast,
  select: (condition, yes, no) => `(${condition} ? ${yes} : ${no})`,
  operation,
  core,
  hints: { vector: ['DM_VECTOR'], outer: ['DM_OUTER'] },
};

function literal(value: number, dtype: Scalar): string {
  if (isFloat(dtype) && Number.isNaN(value)) return `__builtin_nan${suffix(dtype)}("")`;
  if (isFloat(dtype) && !Number.isFinite(value)) return `${value < 0 ? '-' : ''}__builtin_inf${suffix(dtype)}()`;
  if (dtype === 'int32' && value === -0x80000000) return 'INT32_MIN';
  const text = digits(value, dtype);
  return dtype === 'index' ? `INT64_C(${text})` : text + suffix(dtype);
}

function cast(to: Scalar, from: Scalar, x: string): string {
  if (isHalf(from)) return from === to ? x : cast(to, 'float32', `dm_from_${from}(${x})`);
  if (isHalf(to)) return `dm_to_${to}(${from === 'float32' ? `dm_bits(${x})` : `dm_odd(${x})`})`;
  if (to === 'bool') return `(${x} != 0)`;
  if (isFloat(from) && !isFloat(to)) return `dm_to_${to === 'uint32' ? 'uint32' : 'int32'}(${x})`;
  return `((${cType(to)})${x})`;
}

function operation({ op, args }: OpExpr, a: readonly string[]): string | null {
  const of = args[0].dtype,
    all = a.join(', ');
  if (isFloat(of) && op in BUILTINS) return `__builtin_${BUILTINS[op]}${suffix(of)}(${all})`;
  if (of === 'float64' && (isElementary(op) || op === 'pow')) return `dm_${op}(${all})`;
  if (op === 'bitcast') return `dm_${of === 'float32' ? 'bits' : 'float'}(${all})`;
  if (op === 'shl') return `((${cType(of)})((uint32_t)${a[0]} << ${a[1]}))`;
  if (op === 'threefry') return `dm_threefry_first(${all})`;
  if (op === 'abs') return of === 'uint32' ? all : `(${all} < 0 ? - ${all} : ${all})`;
  if (op === 'div' && needsCare(of, args[1])) return `dm_div_${of}(${all})`;
  return null;
}

/** Calls of the matrix core (dm_core in device/native/runtime.h). */
function core(s: CoreStmt, value: (e: Expr) => string): string {
  const at = (m: Matrix): string => `${m.in === 'local' ? 't' : 'b'}${m.of} + ${value(m.at)}`;
  switch (s.s) {
    case 'prefetch':
      return `__builtin_prefetch(b${s.buffer} + ${value(s.index)});`;
    case 'transpose':
      return `c->core->transpose(${value(s.rows)}, ${s.columns}, ${at(s.from)}, ${s.from.rows}, t${s.to});`;
    case 'product': {
      const sizes = [value(s.rows), s.width, value(s.depth)],
        matrices = [at(s.to), s.to.rows, at(s.a), s.a.rows, s.a.columns, at(s.b), s.b.rows];
      return `c->core->product(${[...sizes, ...matrices].join(', ')});`;
    }
  }
}
