// Iterations of elements that contain loops (sums over leading axes): a task takes the neighbouring elements of a row
// through these loops together, one element per vector lane, so that memory is read in the order in which it lies.
import type { Exprs, Expr } from '../kernel/expr.ts';
import { hoistInvariants, hoistValues } from '../kernel/hoist.ts';
import type { Local, LoopKernel, SetStmt, Stmt, StoreStmt } from '../kernel/kernel.ts';
import { asSet, substitute } from '../kernel/rewrite.ts';

const COLUMNS = 64; // elements of a task

/** The same kernel with a grid of tasks. `width`: elements of a row. */
export function elementRows(e: Exprs, k: LoopKernel, width: number): LoopKernel {
  const blocks = Math.ceil(width / COLUMNS),
    { index, extent } = k.grid,
    grid = e.loop(Number.isFinite(index.max) && width > 0 ? ((index.max + 1) / width) * blocks : Infinity, 'g'),
    lane = e.loop(Math.min(COLUMNS, width), 'l'),
    start = e.scale(e.mod(grid, blocks), COLUMNS);
  const live =
    width % COLUMNS === 0 ? e.index(COLUMNS) : e.op('min', [e.index(COLUMNS), e.linear(width, [[-1, start]])], 'index');
  const element = e.linear(0, [
    [width, e.div(grid, blocks)],
    [1, start],
    [1, lane],
  ]);
  // Each scalar of an iteration becomes an array with one element per lane.
  const locals: Local[] = k.locals.map((l) => ({ ...l, length: COLUMNS })),
    by = new Map<Expr, Expr>([[index, element]]),
    memo = new Map<Expr, Expr>();
  k.locals.forEach(({ dtype }, i) => by.set(e.local(i, dtype), e.local(i, dtype, lane)));
  const placed = (x: Expr): Expr => substitute(e, x, by, memo),
    inner = asSet(lane),
    lanes = (body: Stmt[]): Stmt => ({ s: 'for', index: lane, extent: live, parallel: true, body });

  const set = ({ local, value }: SetStmt): Stmt[] => {
    if (value.k === 'const') return [{ s: 'fill', local, value: value.value }];
    const { before, values } = hoistValues(e, [placed(value)], inner, locals);
    return [...before, lanes([{ s: 'set', local, index: lane, value: values[0] }])];
  };
  const stores = (list: readonly StoreStmt[]): Stmt[] => {
    const items = list.map((s) => ({ buffer: s.buffer, at: placed(s.index), value: placed(s.value) })),
      { before, items: hoisted } = hoistInvariants(e, items, inner, locals);
    return [...before, lanes(hoisted.map((h) => ({ s: 'store', buffer: h.buffer, index: h.at, value: h.value })))];
  };
  const all = (body: readonly Stmt[]): Stmt[] => {
    const together = body.filter((s) => s.s === 'store');
    return [
      ...body.flatMap((s): Stmt[] => {
        if (s.s === 'set') return set(s);
        if (s.s === 'if') return [{ s: 'if', condition: placed(s.condition), body: all(s.body) }];
        if (s.s === 'for') return [{ ...s, extent: placed(s.extent), body: all(s.body) }];
        return [];
      }),
      ...(together.length > 0 ? stores(together) : []),
    ];
  };
  return {
    ...k,
    grid: { index: grid, extent: e.scale(e.div(extent, width), blocks), work: null, elements: false, row: null },
    body: all(k.body),
    locals,
  };
}
