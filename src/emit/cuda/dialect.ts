// CUDA C++, in the part that C has too: that of C (emit/c), but for what only GNU compilers know, and for integers,
// whose overflow has no meaning in C. src/device/cuda/kernel.cuh defines the names that begin with DM or dm.
import { VerifyError } from '../../base/errors.ts';
import type { OpExpr, Scalar } from '../../kernel/expr.ts';
import { C, cType } from '../c/dialect.ts';
import type { Dialect } from '../clike/dialect.ts';
import { digits } from '../clike/text.ts';
import type { Widths } from './widths.ts';

const FLOATS: Readonly<Record<string, string>> = {
  fma: 'fma',
  abs: 'fabs',
  sqrt: 'sqrt',
  floor: 'floor',
  round: 'rint',
};
const WRAPPED: Readonly<Record<string, string>> = { add: '+', sub: '-', mul: '*' };

export const CUDA: Dialect = {
  ...C,
  literal,
  array: (dtype, name, length) => `${cType(dtype)} ${name}[${length}];`,
  functionHead: (name, dtype, argument) => `DM_FUNCTION ${cType(dtype)} ${name}(${cType(dtype)} ${argument}) `,
  operation,
  core: (s) => {
    throw new VerifyError('emit', `a GPU has no code of its own for a ${s.s}`);
  },
  hints: { vector: [], outer: [] },
};

/** The dialect of one kernel, whose index values have 32 bits where these hold them. */
export const withWidths = (widths: Widths): Dialect => ({
  ...CUDA,
  typeOf: (e) => (e.dtype === 'index' && widths.fits(e) ? 'int32' : e.dtype),
});

function literal(value: number, dtype: Scalar): string {
  const suffix = dtype === 'float32' ? 'F' : '';
  if (dtype === 'index') return `${digits(value, dtype)}ll`;
  if (Number.isNaN(value)) return `DM_NAN${suffix}`;
  if (!Number.isFinite(value)) return `${value < 0 ? '-' : ''}DM_INF${suffix}`;
  return C.literal(value, dtype);
}

function operation(e: OpExpr, a: readonly string[]): string | null {
  const { op, args } = e,
    of = args[0].dtype;
  if ((of === 'float32' || of === 'float64') && op in FLOATS)
    return `${FLOATS[op]}${of === 'float32' ? 'f' : ''}(${a.join(', ')})`;
  // Of int32 modulo 2^32.
  if (of === 'int32' && op in WRAPPED) return `((int32_t)((uint32_t)${a[0]} ${WRAPPED[op]} (uint32_t)${a[1]}))`;
  if (of === 'int32' && (op === 'neg' || op === 'abs')) {
    const negated = `((int32_t)(0u - (uint32_t)${a[0]}))`;
    return op === 'neg' ? negated : `(${a[0]} < 0 ? ${negated} : ${a[0]})`;
  }
  return C.operation(e, a);
}
