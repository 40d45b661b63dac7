// A matrix product in a dtype that the matrix core does not have (float64, integers): plain loops, with an epilogue on
// each sum before it is stored. Sums are computed in the order of the matrix core, k ascending: in float64 one fused
// multiply-add at a time, in integers modulo 2^32.
import { isFloat } from '../base/dtype.ts';
import { stridesOf, type TensorType } from '../base/shape.ts';
import type { ValueId } from '../graph/graph.ts';
import type { MatmulSpec } from '../graph/op.ts';
import type { Expr, Exprs } from '../kernel/expr.ts';
import type { Extent, Local, LoopKernel, Stmt } from '../kernel/kernel.ts';
import { asSet, substitute } from '../kernel/rewrite.ts';
import { hoistInvariants } from './nest.ts';
import type { Scope } from './scope.ts';

/** Columns and rows of a task; products that are added to a sum between one load and one store of it. */
const COLUMNS = 64,
  ROWS = 8,
  STEPS = 4;

export function buildProduct(
  scope: Scope,
  spec: MatmulSpec,
  out: ValueId,
  type: TensorType,
  roots: readonly ValueId[],
): LoopKernel {
  const { e } = scope,
    { dtype } = type,
    { groups, n } = spec,
    blocks = Math.ceil(n / COLUMNS),
    locals: Local[] = [];
  const minus = (a: Expr, b: Expr): Expr =>
      e.linear(0, [
        [1, a],
        [-1, b],
      ]),
    least = (a: Expr, b: Expr): Expr => e.op('min', [a, b], 'index');
  // The operands are built from variables for group, row, column and depth, whose ranges are known. Then these
  // variables are replaced by what follows from the task's number and the loops inside the task.
  const bound = (x: Extent): number => (typeof x === 'number' ? x : Infinity);
  const [z, i, j, k] = [
    e.loop(groups, 'z'),
    e.loop(bound(spec.m), 'i'),
    e.loop(n, 'j'),
    e.loop(bound(spec.depth), 'k'),
  ];
  const a = spec.a(z, i, k),
    b = spec.b(z, k, j),
    strides = stridesOf(type.shape),
    linear = e.linear(
      0,
      spec.index(z, i, j).map((x, d) => [strides[d], x]),
    );
  scope.beginEpilogue(out, linear);
  const items = roots.map((v) => ({ buffer: scope.buffer(v, 'write'), at: linear, value: scope.linear(v, linear) }));

  // If all groups have the same number of rows, a task has ROWS rows of a group. If each group has its own number of
  // rows, a task has all rows of a group.
  const ragged = typeof spec.m === 'object' && 'offsets' in spec.m,
    alike = ragged ? e.index(1) : e.div(e.add(sizeOf(e, spec.m, e.index(0)), e.index(ROWS - 1)), ROWS);
  const grid = e.loop(typeof spec.m === 'number' ? groups * blocks * Math.ceil(spec.m / ROWS) : Infinity, 'g'),
    column = e.scale(e.mod(grid, blocks), COLUMNS);
  const first = ragged ? e.index(0) : e.scale(e.div(grid, blocks * groups), ROWS),
    group = e.mod(e.div(grid, blocks), groups),
    m = sizeOf(e, spec.m, group);
  const row = e.loop(typeof spec.m === 'number' ? ROWS : Infinity, 'r'),
    lane = e.loop(Math.min(COLUMNS, n), 'l'),
    depth = sizeOf(e, spec.depth, group);
  const width = n % COLUMNS === 0 ? e.index(COLUMNS) : least(e.index(COLUMNS), minus(e.index(n), column));
  const sums = locals.push({ dtype, length: COLUMNS }) - 1,
    sum = e.local(sums, dtype, lane);
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
  const lanes = (body: Stmt[]): Stmt => ({ s: 'for', index: lane, extent: width, vector: true, body });

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
      return isFloat(dtype)
        ? e.op('fma', [get, right, total], dtype)
        : e.op('add', [total, e.op('mul', [get, right], dtype)], dtype);
    }, sum);
    return [...left.map(({ set }) => set), lanes([{ s: 'set', local: sums, index: lane, value: next }])];
  };
  const loop = (extent: Expr, body: (index: Expr) => Stmt[]): Stmt => {
    const index = e.loop(extent, 'q');
    return { s: 'for', index, extent, vector: false, body: body(index) };
  };
  const whole = e.div(depth, STEPS),
    hoisted = hoistInvariants(
      e,
      items.map(({ buffer, at, value }) => ({ buffer, at: placed(at), value: placed(value) })),
      asSet(lane),
      locals,
    );
  const body: Stmt[] = [
    {
      s: 'for',
      index: row,
      extent: ragged ? m : least(e.index(ROWS), minus(m, first)),
      vector: false,
      body: [
        { s: 'fill', local: sums, value: 0 },
        loop(whole, (q) => step(e.scale(q, STEPS), STEPS)),
        loop(
          e.linear(0, [
            [1, depth],
            [-STEPS, whole],
          ]),
          (q) =>
            step(
              e.linear(0, [
                [STEPS, whole],
                [1, q],
              ]),
              1,
            ),
        ),
        ...hoisted.before,
        lanes(hoisted.items.map((h) => ({ s: 'store', buffer: h.buffer, index: h.at, value: h.value }))),
      ],
    },
  ];
  return {
    form: 'loops',
    buffers: scope.buffers,
    locals,
    ints: scope.ints.length,
    grid: { index: grid, extent: e.scale(alike, groups * blocks), grain: 1, vector: false },
    body,
  };
}

/** The size of group z. */
function sizeOf(e: Exprs, size: Extent, z: Expr): Expr {
  if (typeof size === 'number') return e.index(size);
  const load = (buffer: number, at: Expr): Expr => e.op('cast', [e.load(buffer, at, 'int32')], 'index');
  if ('count' in size) return e.scale(load(size.count, e.index(size.at)), size.times);
  return e.linear(0, [
    [1, load(size.offsets, e.add(z, e.index(1)))],
    [-1, load(size.offsets, z)],
  ]);
}
