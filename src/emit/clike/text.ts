// Pieces of C-like text.
import { VerifyError } from '../../base/errors.ts';
import { isHalf, toHalf } from '../../base/half.ts';
import type { Scalar } from '../../kernel/expr.ts';
import type { Dialect } from './dialect.ts';

export const indent = (lines: readonly string[]): string[] => lines.map((l) => `  ${l}`);

/** Lines in braces. `head` stands before the opening one. */
export const block = (head: string, lines: readonly string[]): string[] => [`${head}{`, ...indent(lines), '}'];

/** A loop from `from` to `end` - 1. */
export function loop(
  d: Dialect,
  dtype: Scalar,
  name: string,
  end: string,
  body: readonly string[],
  { from = '0', step = 1 } = {},
): string[] {
  const next = step === 1 ? `${name}++` : `${name} += ${step}`;
  return block(`for (${d.variable(dtype, name, from)} ${name} < ${end}; ${next}) `, body);
}

/** The digits of a finite number: floats read back as the same value, halves are their bits. */
export function digits(value: number, dtype: Scalar): string {
  if (dtype === 'float32' || dtype === 'float64') {
    const single = dtype === 'float32',
      x = single ? Math.fround(value) : value;
    if (Number.isInteger(x) && Math.abs(x) < 1e15) return `${Object.is(x, -0) ? '-0' : x}.0`;
    return x.toExponential(single ? 9 : 17);
  }
  if (isHalf(dtype)) return `${toHalf(dtype, [value])[0]}`;
  if (!Number.isInteger(value)) throw new VerifyError('emit', `${value} is no ${dtype}`);
  if (dtype === 'bool') return value ? '1' : '0';
  return `${dtype === 'uint32' ? value >>> 0 : value}`;
}
