// JavaScript as a dialect of the C-like printer, so that printed text runs inside a test. Values of float32 are rounded
// where they get a name or are stored in an array; a variable would not round, but holds only what was rounded before.
import { VerifyError } from '../../src/base/errors.ts';
import type { Dialect } from '../../src/emit/clike/dialect.ts';
import { digits } from '../../src/emit/clike/text.ts';
import type { OpExpr, Scalar } from '../../src/kernel/expr.ts';

const ARRAYS: Readonly<Partial<Record<Scalar, string>>> = {
  float64: 'Float64Array',
  float32: 'Float32Array',
  int32: 'Int32Array',
  uint32: 'Uint32Array',
  bool: 'Uint8Array',
};

function typed(dtype: Scalar, value: string): string {
  switch (dtype) {
    case 'float32':
      return `Math.fround(${value})`;
    case 'index':
      return `Math.floor(${value})`;
    case 'int32':
      return `(${value}) | 0`;
    case 'uint32':
      return `(${value}) >>> 0`;
    default:
      return value;
  }
}

function operation({ op, args }: OpExpr, a: readonly string[]): string | null {
  const all = a.join(', ');
  switch (op) {
    case 'abs':
    case 'sqrt':
    case 'floor':
      return `Math.${op}(${all})`;
    case 'mul':
      return args[0].dtype === 'int32' ? `Math.imul(${all})` : null;
    case 'fma':
      return `fma(${all})`;
    case 'bitcast':
      return `${args[0].dtype === 'float32' ? 'bitsOf' : 'floatOf'}(${all})`;
    default:
      return null;
  }
}

export const JAVASCRIPT: Dialect = {
  typeOf: (e) => e.dtype,
  // In JavaScript digits are a float64: those of a float32 must give it exactly.
  literal: (value, dtype) =>
    dtype === 'float32' || !Number.isFinite(value) ? `${Math.fround(value)}` : digits(value, dtype),
  constant: (dtype, name, value) => `const ${name} = ${typed(dtype, value)};`,
  variable: (dtype, name, value) => (value === null ? `let ${name};` : `let ${name} = ${typed(dtype, value)};`),
  array: (dtype, name, length) => `const ${name} = new ${ARRAYS[dtype]}(${length});`,
  functionHead: (name, _, argument) => `function ${name}(${argument}) `,
  cast: (to, from, value) =>
    to === 'bool' ? `${value} != 0` : to.startsWith('float') ? `+${value}` : `trunc(${value})`,
  select: (condition, yes, no) => `(${condition} ? ${yes} : ${no})`,
  operation,
  core: ({ s }) => {
    throw new VerifyError('emit', `JavaScript has no ${s}`);
  },
  hints: { vector: [], outer: [] },
};

const words = new DataView(new ArrayBuffer(8));

/** What the text calls. */
export const HELPERS = {
  bitsOf(x: number): number {
    words.setFloat32(0, x);
    return words.getInt32(0);
  },
  floatOf(bits: number): number {
    words.setInt32(0, bits);
    return words.getFloat32(0);
  },
  trunc: (x: number): number => Math.trunc(x) || 0,
  /**
   * a * b + c of float32, rounded once. The product is exact in float64. The sum is rounded to odd there: if it is not
   * exact, its last bit is set, so that rounding it to float32 gives what rounding the exact sum would give.
   */
  fma(a: number, b: number, c: number): number {
    const p = a * b,
      s = p + c,
      back = s - p,
      error = p - (s - back) + (c - back);
    if (!Number.isFinite(s) || error === 0) return s;
    words.setFloat64(0, s);
    const bits = words.getBigInt64(0);
    if (bits & 1n) return s;
    words.setBigInt64(0, bits + (error > 0 === s > 0 ? 1n : -1n));
    return words.getFloat64(0);
  },
};

/** Makes the text of a function's body callable. */
export const asFunction = (params: readonly string[], lines: readonly string[]): ((...args: unknown[]) => unknown) => {
  // eslint-disable-next-line @typescript-eslint/no-implied-eval -- the text under test
  const make = new Function(...Object.keys(HELPERS), ...params, lines.join('\n')) as (...args: unknown[]) => unknown;
  return (...args) => make(...Object.values(HELPERS), ...args);
};
