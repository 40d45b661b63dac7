// A matrix product in a dtype that the matrix core does not have (float64, integers): plain loops, with what is computed from each of its
// sums before they are stored. The order of summation is the same, K ascending: of float64 one fused multiply-add at a time, of integers
// modulo 2^32.
import { isFloat } from '../base/dtype.ts';
import { stridesOf, type TensorType } from '../base/shape.ts';
import type { ValueId } from '../graph/graph.ts';
import type { MatmulSpec } from '../graph/op.ts';
import type { Expr, Exprs } from '../kernel/expr.ts';
import type { Extent, Local, LoopKernel, Stmt } from '../kernel/kernel.ts';
import { asSet, substitute } from '../kernel/rewrite.ts';
import { hoistInvariants } from './nest.ts';
import type { Scope } from './scope.ts';

const COLUMNS = 64, ROWS = 8, STEPS = 4; // of a task; steps of the depth for which a sum is loaded and stored once

export function buildProduct(scope: Scope, spec: MatmulSpec, out: ValueId, type: TensorType, roots: readonly ValueId[]): LoopKernel {
  const { e } = scope, { dtype } = type, { groups, n } = spec, blocks = Math.ceil(n / COLUMNS), locals: Local[] = [];
  const minus = (a: Expr, b: Expr): Expr => e.linear(0, [[1, a], [-1, b]]), least = (a: Expr, b: Expr): Expr => e.op('min', [a, b], 'index');
  // Rows of all groups alike are shared by tasks; where each group has its own number, a task has a group's.
  const ragged = typeof spec.m === 'object' && 'offsets' in spec.m, alike = ragged ? e.index(1) : e.div(e.add(sizeOf(e, spec.m, e.index(0)), e.index(ROWS - 1)), ROWS);
  const most = typeof spec.m === 'number' ? groups * blocks * Math.ceil(spec.m / ROWS) : Infinity;
  const grid = e.loop(most, 'g'), z = e.mod(e.div(grid, blocks), groups), column = e.scale(e.mod(grid, blocks), COLUMNS);
  const first = ragged ? e.index(0) : e.scale(e.div(grid, blocks * groups), ROWS), m = sizeOf(e, spec.m, z);
  const rows = ragged ? m : least(e.index(ROWS), minus(m, first)), depth = sizeOf(e, spec.depth, z);
  const width = n % COLUMNS === 0 ? e.index(COLUMNS) : least(e.index(COLUMNS), minus(e.index(n), column));
  const row = e.loop(typeof spec.m === 'number' ? ROWS : Infinity, 'i'), lane = e.loop(Math.min(COLUMNS, n), 'l'), i = e.add(first, row), j = e.add(column, lane);
  const sums = locals.push({ dtype, length: COLUMNS }) - 1, sum = e.local(sums, dtype, lane);
  const lanes = (body: Stmt[]): Stmt => ({ s: 'for', index: lane, extent: width, vector: true, body });

  /** `count` steps of the depth from k on. */
  const step = (k: Expr, count: number): Stmt[] => {
    const at = (s: number): Expr => e.linear(s, [[1, k]]), a = Array.from({ length: count }, (_, s) => {
      const local = locals.push({ dtype, length: 0 }) - 1;
      return { set: { s: 'set', local, index: null, value: spec.a(z, i, at(s)) } satisfies Stmt, get: e.local(local, dtype) };
    });
    const next = a.reduce<Expr>((total, { get }, s) => {
      const b = spec.b(z, at(s), j);
      return isFloat(dtype) ? e.op('fma', [get, b, total], dtype) : e.op('add', [total, e.op('mul', [get, b], dtype)], dtype);
    }, sum);
    return [...a.map(({ set }) => set), lanes([{ s: 'set', local: sums, index: lane, value: next }])];
  };
  const loop = (extent: Expr, name: string, body: (index: Expr) => Stmt[]): Stmt => {
    const index = e.loop(extent, name);
    return { s: 'for', index, extent, vector: false, body: body(index) };
  };
  const whole = e.div(depth, STEPS);

  const strides = stridesOf(type.shape), linear = e.linear(0, spec.index(z, i, j).map((x, d) => [strides[d], x]));
  scope.beginEpilogue(out, linear);
  const finished = new Map([[e.sum(dtype), sum]]);
  const items = roots.map((v) => ({ buffer: scope.buffer(v, 'write'), at: linear, value: substitute(e, scope.linear(v, linear), finished) }));
  const hoisted = hoistInvariants(e, items, asSet(lane), locals);
  const body: Stmt[] = [{ s: 'for', index: row, extent: rows, vector: false, body: [
    { s: 'fill', local: sums, value: 0 },
    loop(whole, 'k', (q) => step(e.scale(q, STEPS), STEPS)),
    loop(e.linear(0, [[1, depth], [-STEPS, whole]]), 'k', (q) => step(e.linear(0, [[STEPS, whole], [1, q]]), 1)),
    ...hoisted.before, lanes(hoisted.items.map((h) => ({ s: 'store', buffer: h.buffer, index: h.at, value: h.value })))] }];
  return { form: 'loops', buffers: scope.buffers, locals, ints: scope.ints.length, grid: { index: grid, extent: e.scale(alike, groups * blocks), grain: 1, vector: false }, body };
}

/** A size of group z. */
function sizeOf(e: Exprs, size: Extent, z: Expr): Expr {
  if (typeof size === 'number') return e.index(size);
  const load = (buffer: number, at: Expr): Expr => e.op('cast', [e.load(buffer, at, 'int32')], 'index');
  if ('count' in size) return e.scale(load(size.count, e.index(size.at)), size.times);
  return e.linear(0, [[1, load(size.offsets, e.add(z, e.index(1)))], [-1, load(size.offsets, z)]]);
}
