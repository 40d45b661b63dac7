// A matrix product in a dtype that the matrix core does not have (float64, integers): plain loops, with an epilogue on
// each sum before it is stored. Sums are computed in the order of the matrix core, k ascending: in float64 one fused
// multiply-add at a time, in integers modulo 2^32.
import { isFloat, type DType } from '../base/dtype.ts';
import { VerifyError } from '../base/errors.ts';
import type { KernelParts } from '../base/parts.ts';
import type { Expr, Exprs } from '../kernel/expr.ts';
import { joinPart, levelsOf, partStart } from '../kernel/parts.ts';
import type { Local, LoopKernel, MatmulKernel, Stmt, StoreStmt } from '../kernel/kernel.ts';
import { hoistInvariants } from '../kernel/hoist.ts';
import { asSet, substitute } from '../kernel/rewrite.ts';
import { sizeOf } from './extent.ts';

/** Columns and rows of a task; products that are added to a sum between one load and one store of it. */
const COLUMNS = 64,
  ROWS = 8,
  STEPS = 4;

export function productLoops(e: Exprs, product: MatmulKernel): LoopKernel {
  const { dtype, groups, n, a, b, z, i, j, k, epilogue } = product,
    blocks = Math.ceil(n / COLUMNS),
    locals: Local[] = [...product.locals];
  const minus = (x: Expr, y: Expr): Expr =>
      e.linear(0, [
        [1, x],
        [-1, y],
      ]),
    least = (x: Expr, y: Expr): Expr => e.op('min', [x, y], 'index');

  // If all groups have the same number of rows, a task has ROWS rows of a group. If each group has its own number of
  // rows, a task has all rows of a group.
  const ragged = typeof product.m === 'object' && 'offsets' in product.m,
    alike = ragged ? e.index(1) : e.div(e.add(sizeOf(e, product.m, e.index(0)), e.index(ROWS - 1)), ROWS);
  const tasks = typeof product.m === 'number' ? groups * blocks * Math.ceil(product.m / ROWS) : Infinity,
    grid = e.loop(tasks, 'g'),
    column = e.scale(e.mod(grid, blocks), COLUMNS);
  const first = ragged ? e.index(0) : e.scale(e.div(grid, blocks * groups), ROWS),
    group = e.mod(e.div(grid, blocks), groups),
    m = sizeOf(e, product.m, group);
  const row = e.loop(typeof product.m === 'number' ? ROWS : Infinity, 'r'),
    lane = e.loop(Math.min(COLUMNS, n), 'l'),
    depth = sizeOf(e, product.depth, group);
  const width = n % COLUMNS === 0 ? e.index(COLUMNS) : least(e.index(COLUMNS), minus(e.index(n), column));
  const sums = locals.push({ dtype, length: COLUMNS }) - 1,
    sum = e.local(sums, dtype, lane);
  /** An expression of the product with its variables written in terms of the task and the loops inside it. */
  const placed = (x: Expr, at: Expr = k): Expr =>
    substitute(
      e,
      x,
      new Map<Expr, Expr>([
        [z, group],
        [i, e.add(first, row)],
        [j, e.add(column, lane)],
        [k, at],
        [e.sum(dtype), sum],
      ]),
    );
  const lanes = (body: Stmt[]): Stmt => ({ s: 'for', index: lane, extent: width, parallel: true, body });

  /** Adds `count` products to each sum, for the depth from `from` on. */
  const step = (from: Expr, count: number): Stmt[] => {
    const at = (s: number): Expr => e.linear(s, [[1, from]]),
      left = Array.from({ length: count }, (_, s) => {
        const local = locals.push({ dtype, length: 0 }) - 1;
        return {
          set: { s: 'set', local, index: null, value: placed(a, at(s)) } satisfies Stmt,
          get: e.local(local, dtype),
        };
      });
    const next = left.reduce<Expr>((total, { get }, s) => {
      const right = placed(b, at(s));
      return isFloat(dtype as DType)
        ? e.op('fma', [get, right, total], dtype)
        : e.op('add', [total, e.op('mul', [get, right], dtype)], dtype);
    }, sum);
    return [...left.map(({ set }) => set), lanes([{ s: 'set', local: sums, index: lane, value: next }])];
  };
  const loop = (extent: Expr, body: (index: Expr) => Stmt[]): Stmt => {
    const index = e.loop(extent, 'q');
    return { s: 'for', index, extent, parallel: false, body: body(index) };
  };
  /** Sums the products of the depth from `from` to `end`. */
  const chain = (from: Expr, end: Expr): Stmt[] => {
    const size = minus(end, from),
      whole = e.div(size, STEPS),
      rest = e.add(size, [-STEPS, whole]);
    return [
      { s: 'fill', local: sums, value: 0 },
      loop(whole, (q) => step(e.add(from, [STEPS, q]), STEPS)),
      loop(rest, (q) => step(e.add(from, [STEPS, whole], q), 1)),
    ];
  };
  const inParts = (parts: KernelParts): Stmt => {
    const waiting = Array.from({ length: levelsOf(parts) }, () => locals.push({ dtype, length: COLUMNS }) - 1),
      waits = (level: number): Expr => e.local(waiting[level], dtype, lane);
    return loop(e.index(parts.parts), (p) => [
      ...chain(partStart(e, depth, p, parts), partStart(e, depth, e.add(p, 1), parts)),
      ...joinPart<Stmt>(
        e,
        p,
        parts,
        (level) => [lanes([{ s: 'set', local: waiting[level], index: lane, value: sum }])],
        (level) => [lanes([{ s: 'set', local: sums, index: lane, value: e.op('add', [waits(level), sum], dtype) }])],
      ),
    ]);
  };
  const items = epilogue.element.map((s) => ({
      buffer: store(s).buffer,
      at: placed(store(s).index),
      value: placed(store(s).value),
    })),
    hoisted = hoistInvariants(e, items, asSet(lane), locals);
  const body: Stmt[] = [
    {
      s: 'for',
      index: row,
      extent: ragged ? m : least(e.index(ROWS), minus(m, first)),
      parallel: false,
      body: [
        ...(product.parts ? [inParts(product.parts)] : chain(e.index(0), depth)),
        ...epilogue.row.map((s): Stmt => (s.s === 'set' ? { ...s, value: placed(s.value) } : s)),
        ...hoisted.before,
        lanes(hoisted.items.map((h) => ({ s: 'store', buffer: h.buffer, index: h.at, value: h.value }))),
      ],
    },
  ];
  return {
    form: 'loops',
    buffers: product.buffers,
    locals,
    ints: product.ints,
    grid: { index: grid, extent: e.scale(alike, groups * blocks), work: null, elements: false, row: null },
    body,
  };
}

/** An epilogue's statements for an element only store. */
function store(s: Stmt): StoreStmt {
  if (s.s !== 'store') throw new VerifyError('schedule', `an epilogue has a statement "${s.s}" for each element`);
  return s;
}
