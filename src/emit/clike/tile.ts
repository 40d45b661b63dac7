// Loops over one block of a matmul as C-like text: copying a block of an operand, and the epilogue on finished sums.
// The first row, column and place in the depth of the block are i0, j0 and k0, their numbers ni, nj and nk.
import { postorder, type Expr, type Var } from '../../kernel/expr.ts';
import { invariants } from '../../kernel/rewrite.ts';
import type { CpuMatmul, Packing } from '../../schedule/cpu-kernel.ts';
import type { Place } from './access.ts';
import type { Dialect } from './dialect.ts';
import { ExprWriter } from './expr.ts';
import { StmtWriter } from './stmt.ts';
import { block, loop } from './text.ts';

/** The first value of a loop's variable, and the number of iterations. */
interface Range {
  readonly variable: Var;
  readonly from: string;
  readonly count: string;
}

const range = (variable: Var, letter: 'i' | 'j' | 'k'): Range => ({
  variable,
  from: `${letter}0`,
  count: `n${letter}`,
});

/** Copies element (i, k) of `a` to dst[i * ld + k], or to dst[k * ld + i] if `inner` is i, counted in the block. */
export function packA(d: Dialect, { a, packA: p, i, k }: CpuMatmul): string[] {
  const rows = range(i, 'i'),
    depth = range(k, 'k');
  return p.inner === i ? copy(d, a, p, depth, rows, 'o * ld + q') : copy(d, a, p, rows, depth, 'o * ld + q');
}

/** Copies element (k, j) of `b` to dst[k * ld + j]. */
export function packB(d: Dialect, { b, packB: p, k, j }: CpuMatmul): string[] {
  const depth = range(k, 'k'),
    columns = range(j, 'j');
  return p.inner === k ? copy(d, b, p, columns, depth, 'q * ld + o') : copy(d, b, p, depth, columns, 'o * ld + q');
}

/** Runs of up to this many elements are copied by a loop of fixed length. */
const SHORT = 64;

/**
 * Copies a block of an operand to dst[`target`], a function of o and q, which count from the start of `outer` and
 * `own`. The inner loop is vectorised, and goes run by run if the operand has runs. What does not depend on a loop's
 * variable is computed once, before the loop.
 */
function copy(d: Dialect, whole: Expr, { run }: Packing, outer: Range, own: Range, target: string): string[] {
  const value = run?.value ?? whole,
    inner = own.variable,
    names = new Map<Expr, string>();
  const before = (...vars: readonly Var[]): string[] => {
    const w = new ExprWriter(d, names);
    for (const v of invariants([value], new Set(vars))) if (!names.has(v)) names.set(v, w.value(v));
    return w.lines;
  };
  const elements = (from: string, to: string): string[] => {
    const w = new ExprWriter(d, names),
      v = w.value(value);
    const element = [d.constant('index', inner.name, `${own.from} + q`), ...w.lines, `dst[${target}] = ${v};`];
    return [...d.hints.vector, ...loop(d, 'index', 'q', to, element, { from })];
  };
  const runs = ({ index, length }: NonNullable<Packing['run']>): string[] => {
    const at = index.name,
      first = `${at} * ${length} - ${own.from}`, // of the run, in the block
      outside = before(inner);
    const cut = [
      ...d.hints.outer,
      ...outside,
      d.constant('index', 'first', first),
      d.constant('index', 'last', `first + ${length}`),
      d.constant('index', 'lo', d.select('first < 0', d.literal(0, 'index'), 'first')),
      d.constant('index', 'hi', d.select(`last < ${own.count}`, 'last', own.count)),
    ];
    const short = block(`if (hi - lo == ${length}) `, elements('first', `first + ${length}`));
    const lines = length > SHORT ? elements('lo', 'hi') : [...short, ...block('else ', elements('lo', 'hi'))];
    const start = d.variable('index', at, `${own.from} / ${length}`);
    return block(`for (${start} ${first} < ${own.count}; ${at}++) `, [...cut, ...lines]);
  };
  const head = [
    ...d.hints.outer,
    d.constant('index', outer.variable.name, `${outer.from} + o`),
    ...before(...(run ? [run.index, inner] : [inner])),
  ];
  return loop(d, 'index', 'o', outer.count, [...head, ...(run ? runs(run) : elements('0', own.count))]);
}

/** Runs the epilogue on a block of finished sums, acc[row * ld + column]. */
export function epilogue(d: Dialect, { epilogue: { row, element }, locals, i, j }: CpuMatmul): string[] {
  const w = new StmtWriter(d, locals);
  const each = [
    d.constant('index', j.name, 'j0 + q'),
    d.constant('float32', 'sum', 'acc[r * ld + q]'),
    ...w.body(element),
  ];
  return loop(d, 'index', 'r', 'ni', [
    ...d.hints.outer,
    d.constant('index', i.name, 'i0 + r'),
    ...w.declarations(),
    ...w.body(row),
    ...d.hints.vector,
    ...loop(d, 'index', 'q', 'nj', each),
  ]);
}

/** Gives the address of a buffer's element for i = j = k = 0. */
export function address(d: Dialect, kernel: CpuMatmul, place: Place): string[] {
  const stmts = new StmtWriter(d, kernel.locals),
    w = new ExprWriter(d),
    at = w.value(place.index);
  const locals = postorder([place.index]).some((e) => e.k === 'local');
  return [
    ...[kernel.i, kernel.j, kernel.k].map((v) => d.constant('index', v.name, '0')),
    ...(locals ? [...stmts.declarations(), ...stmts.body(kernel.epilogue.row)] : []),
    ...w.lines,
    `return &b${place.buffer}[${at}];`,
  ];
}
