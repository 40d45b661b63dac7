// Loops for a group of values over one shape. There are three forms: one loop over the elements; a loop over rows, with
// reductions along each row; a loop over elements that go through rows, where leading axes are summed. The expressions
// decide which form is taken.
import { boundOf, elements, type TensorType } from '../base/shape.ts';
import { leastOf } from '../base/dtype.ts';
import { VerifyError } from '../base/errors.ts';
import type { Graph, ValueId } from '../graph/graph.ts';
import { postorder, type Exprs, type Expr, type ScalarOp, type Var } from '../kernel/expr.ts';
import { hoistInvariants, hoistValues, type Item } from '../kernel/hoist.ts';
import { joinPart, levelsOf, partStart } from '../kernel/parts.ts';
import type { Local, LoopKernel, ReduceTarget, Stmt } from '../kernel/kernel.ts';
import { asSet, dependsOn, reductions, substitute } from '../kernel/rewrite.ts';
import type { Scope } from './scope.ts';

/** The cost of an elementary function and of a reduction along a row, in elements of work. */
const FUNCTION = 2,
  REDUCTION = 32;
const FUNCTIONS = new Set<string>([
  'exp',
  'log',
  'tanh',
  'sigmoid',
  'erf',
  'sin',
  'cos',
  'pow',
  'threefry',
] satisfies ScalarOp[]);
const MAX_RANGES = 16;
const CHUNK = 4096; // docs/architecture/lowering.md: a long sum is the sum of chunks of this many elements

type Reduce = Extract<Expr, { k: 'reduce' }>;

export function buildNest(graph: Graph, scope: Scope, roots: readonly ValueId[]): LoopKernel {
  const { e } = scope,
    sizeOf = (v: ValueId): number => elements(graph.types[v].shape),
    most = Math.max(...roots.map(sizeOf));
  // The group may contain values with one element for each row, beside the values with one element for each column.
  const wide = roots.filter((v) => sizeOf(v) === most),
    narrow = roots.filter((v) => sizeOf(v) !== most);
  const type = graph.types[wide[0]],
    shape = type.shape,
    rank = shape.length;
  const itemsOf = (values: readonly ValueId[], linear: Expr): Item[] =>
    values.map((v) => ({ buffer: scope.buffer(v, 'write'), at: linear, value: scope.linear(v, linear) }));
  const itemsAt = (linear: Expr): Item[] => itemsOf(wide, linear);
  const dynamic = rank > 0 && typeof shape[0] !== 'number';
  const rowElements = elements(shape.slice(1));
  const count = dynamic ? e.scale(scope.extent(type, 0), rowElements) : e.index(elements(shape));

  // One loop over the elements, if every element is read at the index that is written. The loop variable of a counted
  // dimension has no known maximum, so that the kernel's text does not contain the bound.
  const flat = e.loop(dynamic ? Infinity : elements(shape), 'p');
  const items = itemsAt(flat);
  const all = items.map((i) => i.value);
  const serial = reductions(all, 'serial');
  const lanes = reductions(all, 'lanes');
  if (serial.length === 0 && lanes.length === 0 && narrow.length === 0 && (rank <= 1 || direct(all, flat))) {
    return kernel(scope, [], { index: flat, extent: count, work: 1, elements: true, row: null }, stores(items));
  }
  const checkNoNarrow = (): void => {
    if (narrow.length > 0)
      throw new VerifyError('lower', 'a value with one element per row shares a kernel with values without rows');
  };
  if (serial.length > 0) {
    checkNoNarrow();
    return columns(scope, type, roots);
  }

  // A loop over rows. If the element of a column needs a reduction of its own, or the last axis is counted, every
  // element is a row.
  const width = rank > 0 ? boundOf(shape[rank - 1]) : 1;
  const column = e.loop(width, 'c');
  const row = e.loop(dynamic ? Infinity : Math.max(1, elements(shape) / Math.max(1, width)), 'r');
  const inRow = itemsAt(
    e.linear(0, [
      [width, row],
      [1, column],
    ]),
  );
  const needsOwn = reductions(
    inRow.map((i) => i.value),
    'lanes',
  ).some((r) => dependsOn(r, asSet(column)));
  const locals: Local[] = [];
  if (needsOwn || rank === 0 || (dynamic && rank === 1)) {
    checkNoNarrow();
    const rows = e.loop(dynamic ? Infinity : elements(shape), 'r');
    const own = hoistReductions(e, itemsAt(rows), locals);
    const length = lanes.reduce((n, r) => n + Math.min(CHUNK, maxExtent(r)), 1);
    return kernel(
      scope,
      locals,
      { index: rows, extent: count, work: workOf(all, length), elements: false, row: null },
      [...own.before, ...stores(own.items)],
    );
  }
  const own = hoistReductions(e, [...inRow, ...itemsOf(narrow, row)], locals),
    rowItems = own.items.slice(inRow.length);
  const hoisted = hoistInvariants(e, own.items.slice(0, inRow.length), asSet(column), locals);
  const rows = dynamic
    ? e.scale(scope.extent(type, 0), elements(shape.slice(1, -1)))
    : e.index(elements(shape.slice(0, -1)));
  return kernel(scope, locals, { index: row, extent: rows, work: workOf(all, width), elements: false, row: null }, [
    ...own.before,
    ...stores(rowItems),
    ...hoisted.before,
    ...inRanges(e, hoisted.items, column, width),
  ]);
}

/** The cost of a row of `width` elements, in elements of work. */
function workOf(values: readonly Expr[], width: number): number {
  const all = postorder(values),
    functions = all.filter((x) => x.k === 'op' && FUNCTIONS.has(x.op)).length;
  return Math.max(1, width) * (1 + FUNCTION * functions) + REDUCTION * all.filter((x) => x.k === 'reduce').length;
}

/**
 * A vector loop over the columns. Where values test whether the column is below a constant (concat, pad), there is one
 * loop for each range in which the test has one answer, so that no lane has to select.
 */
function inRanges(e: Exprs, items: readonly Item[], column: Var, width: number): Stmt[] {
  const cuts = new Set<number>();
  for (const x of postorder(items.map((i) => i.value))) {
    if (x.k !== 'op' || (x.op !== 'lt' && x.op !== 'le')) continue;
    const [a, b] = x.args;
    if (a === column && b.k === 'const' && x.op === 'lt') cuts.add(b.value);
    if (b === column && a.k === 'const' && x.op === 'le') cuts.add(a.value);
  }
  const inner = [...cuts].filter((c) => c > 0 && c < width).sort((a, b) => a - b);
  const bounds = inner.length > MAX_RANGES ? [0, width] : [0, ...inner, width];
  return bounds.slice(1).map((end, i) => {
    const start = bounds[i],
      c = bounds.length === 2 ? column : e.loop(end - start, 'c');
    const by = new Map<Expr, Expr>([[column, e.linear(start, [[1, c]])]]),
      memo = new Map<Expr, Expr>();
    const own =
      c === column
        ? items
        : items.map((x) => ({ ...x, at: substitute(e, x.at, by, memo), value: substitute(e, x.value, by, memo) }));
    return { s: 'for', index: c, extent: e.index(end - start), parallel: true, body: stores(own) };
  });
}

const maxExtent = (r: Reduce): number => (Number.isFinite(r.index.max) ? r.index.max + 1 : CHUNK);

function direct(roots: readonly Expr[], flat: Var): boolean {
  const seen = new Set<Expr>();
  const fine = (e: Expr): boolean => {
    if (seen.has(e)) return true;
    seen.add(e);
    if (e.k === 'load') return e.index === flat || e.index.k === 'const';
    if (e.k === 'op') return !(e.dtype === 'index' && (e.op === 'div' || e.op === 'mod')) && e.args.every(fine);
    return e.k !== 'reduce' && e.k !== 'linear';
  };
  return roots.every(fine);
}

const stores = (items: readonly Item[]): Stmt[] =>
  items.map((i) => ({ s: 'store', buffer: i.buffer, index: i.at, value: i.value }));

function kernel(scope: Scope, locals: readonly Local[], grid: LoopKernel['grid'], body: readonly Stmt[]): LoopKernel {
  return { form: 'loops', buffers: scope.buffers, locals, ints: scope.ints.length, grid, body };
}

/**
 * Takes reductions out of expressions: each becomes a local that is computed before. Reductions over one range share a
 * pass.
 */
function hoistReductions(e: Exprs, items: readonly Item[], locals: Local[]): { before: Stmt[]; items: Item[] } {
  const before: Stmt[] = [],
    by = new Map<Expr, Expr>();
  let open: { index: Var; extent: Expr; targets: ReduceTarget[]; locals: Set<Expr>; by: Map<Expr, Expr> } | null = null;
  const close = (): void => {
    if (!open) return;
    const inner = hoistValues(
      e,
      open.targets.map((t) => t.value),
      asSet(open.index),
      locals,
    );
    before.push(...inner.before, {
      s: 'reduce',
      index: open.index,
      extent: open.extent,
      targets: open.targets.map((t, i) => ({ ...t, value: inner.values[i] })),
    });
    open = null;
  };
  for (const r of reductions(
    items.map((i) => i.value),
    'lanes',
  )) {
    const value = substitute(e, r.body, by),
      extent = substitute(e, r.extent, by);
    if (open && (open.index !== r.index || open.extent !== extent || dependsOn(value, open.locals))) close();
    open ??= { index: r.index, extent, targets: [], locals: new Set(), by };
    const local = locals.push({ dtype: r.dtype, length: 0 }) - 1;
    const got = e.local(local, r.dtype);
    open.targets.push({ local, op: r.op, value });
    open.locals.add(got);
    by.set(r, got);
  }
  close();
  const memo = new Map<Expr, Expr>();
  return { before, items: items.map((i) => ({ ...i, value: substitute(e, i.value, by, memo) })) };
}

/** One step of a reduction. A maximum that is NaN stays NaN. */
function joined(e: Exprs, { op, dtype }: Reduce, total: Expr, x: Expr): Expr {
  if (op === 'sum') return e.op('add', [total, x], dtype);
  return e.op(
    'select',
    [e.op('or', [e.op('lt', [total, x], 'bool'), e.op('ne', [x, x], 'bool')], 'bool'), x, total],
    dtype,
  );
}

/**
 * Sums over leading axes: each element goes through the rows one by one, in chunks of CHUNK rows whose sums are added
 * in order; or so through the rows of each part.
 */
function columns(scope: Scope, type: TensorType, roots: readonly ValueId[]): LoopKernel {
  // A scalar, and a list whose length is counted, have one column.
  const { e } = scope,
    last = type.shape[type.shape.length - 1],
    width = typeof last === 'number' ? last : 1,
    shape = typeof last === 'number' ? type.shape : [...type.shape, 1],
    dynamic = shape.length > 1 && typeof shape[0] !== 'number';
  const index = e.loop(dynamic ? Infinity : elements(shape), 'p'),
    rows = shape.length > 1 ? scope.extent(type, 0) : e.index(1);
  let items = roots.map((v): Item => ({ buffer: scope.buffer(v, 'write'), at: index, value: scope.linear(v, index) }));
  const locals: Local[] = [],
    body: Stmt[] = [];
  const set = (local: number, value: Expr): Stmt => ({ s: 'set', local, index: null, value });
  const loop = (of: Var, extent: Expr, inside: Stmt[]): Stmt => ({
    s: 'for',
    index: of,
    extent,
    parallel: false,
    body: inside,
  });
  const by = new Map<Expr, Expr>();
  for (const r of reductions(
    items.map((i) => i.value),
    'serial',
  )) {
    const start = e.const(r.op === 'sum' ? 0 : leastOf(r.dtype), r.dtype),
      local = (): number => locals.push({ dtype: r.dtype, length: 0 }) - 1,
      get = (of: number): Expr => e.local(of, r.dtype),
      [total, part] = [local(), local()];
    const extent = substitute(e, r.extent, by),
      chunk = e.loop(Math.ceil((r.index.max + 1) / CHUNK), 'h'),
      inChunk = e.loop(CHUNK, 'i');
    /** The sum of the rows `from` to `end`, at most `most`. */
    const chain = (from: Expr, end: Expr, most: number): Stmt[] => {
      const size = e.add(end, [-1, from]),
        valueOf = (row: Expr): Expr => substitute(e, substitute(e, r.body, by), new Map([[r.index, row]]));
      if (most <= CHUNK) {
        const i = e.loop(most, 'i'),
          value = valueOf(e.add(from, i));
        return [set(total, start), loop(i, size, [set(total, joined(e, r, get(total), value))])];
      }
      const value = valueOf(e.add(from, [CHUNK, chunk], inChunk)),
        chunks = e.div(e.add(size, CHUNK - 1), CHUNK),
        left = e.add(size, [-CHUNK, chunk]);
      return [
        set(total, start),
        loop(chunk, chunks, [
          set(part, start),
          loop(inChunk, e.op('min', [e.index(CHUNK), left], 'index'), [set(part, joined(e, r, get(part), value))]),
          set(total, joined(e, r, get(total), get(part))),
        ]),
      ];
    };
    if (r.parts) {
      const { parts } = r,
        p = e.loop(parts.parts, 'p'),
        all = r.index.max + 1,
        most = parts.offsets === undefined ? Math.ceil(all / parts.sample / parts.parts) * parts.sample : all,
        waiting = Array.from({ length: levelsOf(parts) }, local);
      body.push(
        loop(p, e.index(parts.parts), [
          ...chain(partStart(e, extent, p, parts), partStart(e, extent, e.add(p, 1), parts), most),
          ...joinPart<Stmt>(
            e,
            p,
            parts,
            (level) => [set(waiting[level], get(total))],
            (level) => [set(total, joined(e, r, get(waiting[level]), get(total)))],
          ),
        ]),
      );
    } else body.push(...chain(e.index(0), extent, Infinity));
    by.set(r, get(total));
  }
  items = items.map((i) => ({ ...i, value: substitute(e, i.value, by) }));
  const grid = {
    index,
    extent: e.scale(rows, width * elements(shape.slice(1, -1))),
    work: null,
    elements: true,
    row: width,
  };
  return kernel(scope, locals, grid, [...body, ...stores(items)]);
}
