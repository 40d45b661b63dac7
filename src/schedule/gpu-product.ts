// A matrix product as tiles: a block of threads computes a tile of the sums of one group. Parts of both operands are
// copied to shared memory; each thread adds to sums of its own, k ascending, and runs the epilogue on them. Blocks take
// tiles in turns, group after group; how many rows a group has is read when the kernel runs.
import { isFloat, type DType } from '../base/dtype.ts';
import { VerifyError } from '../base/errors.ts';
import type { KernelParts } from '../base/parts.ts';
import type { Expr, Exprs, Var } from '../kernel/expr.ts';
import { joinPart, levelsOf, partStart } from '../kernel/parts.ts';
import type { MatmulKernel, Stmt } from '../kernel/kernel.ts';
import { contiguous, substitute } from '../kernel/rewrite.ts';
import { sizeOf } from './extent.ts';
import type { GpuKernel, GpuLocal, GpuStmt } from './gpu-kernel.ts';
import { ceilDiv, serial, when } from './gpu-statements.ts';
import { bytesOf } from './gpu-verify.ts';
import type { GpuTarget } from './target.ts';

/** Sums of a thread, down and across: the largest first. */
const SHAPES = [
    [8, 4],
    [4, 4],
    [4, 2],
    [2, 2],
  ] as const,
  /** Where the number of rows is not known before the kernel runs. */
  RAGGED = SHAPES[1],
  /** Registers that the sums of a thread take, with those that wait for other parts of the depth. */
  REGISTERS = 32,
  /** Steps of the depth between two copies to shared memory, at most. */
  DEPTH = 16,
  /** Elements between the rows of a shared array, so that threads write to different banks, 16 bytes at a time. */
  PAD = 4;

export function productTiles(e: Exprs, product: MatmulKernel, target: GpuTarget): GpuKernel {
  const { dtype, groups, n, z, i, j, k, buffers, ints, epilogue } = product,
    { threads } = target;
  // The threads lie in a grid of width x height. A thread has sums of neighbouring rows, and of columns `width` apart:
  // it reads the former 16 bytes at a time, and neighbouring threads store neighbouring elements.
  const width = 2 ** Math.ceil(Math.log2(threads) / 2),
    height = Math.floor(threads / width),
    [down, across] = shapeOf(product, width, height, target),
    rows = height * down,
    columns = width * across,
    [leftRow, rightRow] = [rows + PAD, columns + PAD];
  let depth = DEPTH;
  while (depth > 1 && (leftRow + rightRow) * depth * bytesOf(dtype) > target.shared) depth /= 2;

  const most = typeof product.m === 'number' ? groups * Math.ceil(product.m / rows) * Math.ceil(n / columns) : Infinity,
    blocks = Math.max(1, Math.min(target.blocks, most)),
    block = e.loop(blocks, 'block'),
    thread = e.loop(threads, 'thread'),
    y = e.div(thread, width),
    x = e.mod(thread, width);
  const locals: GpuLocal[] = product.locals.map((l) => ({ ...l, shared: false })),
    local = (l: GpuLocal): number => locals.push(l) - 1;
  const left = local({ dtype, length: depth * leftRow, shared: true }),
    right = local({ dtype, length: depth * rightRow, shared: true }),
    sums = local({ dtype, length: down * across, shared: false }),
    one = local({ dtype, length: 0, shared: false }),
    done = local({ dtype: 'index', length: 0, shared: false }),
    earlier = e.local(done, 'index');

  // Tiles are counted through all groups: a block goes on where it stopped in the group before, so that all have work.
  const m = sizeOf(e, product.m, z),
    all = sizeOf(e, product.depth, z),
    wide = Math.ceil(n / columns),
    tiles = e.scale(ceilDiv(e, m, rows), wide);
  const turn = e.linear(blocks, [
      [1, block],
      [-1, earlier],
    ]),
    tile = e.loop(Infinity, 'tile'),
    row = e.scale(e.div(tile, wide), rows),
    column = e.scale(e.mod(tile, wide), columns);
  // The depth is one range, or one for each part.
  const { parts } = product,
    p = e.loop(parts?.parts ?? 1, 'p'),
    from = parts ? partStart(e, all, p, parts) : e.index(0),
    until = parts ? partStart(e, all, e.add(p, 1), parts) : all,
    count = ceilDiv(e, e.add(until, [-1, from]), depth),
    chunk = e.loop(count, 'c'),
    start = e.add(from, [depth, chunk]);

  const set = (to: number, index: Expr | null, value: Expr): GpuStmt => ({ s: 'set', local: to, index, value });
  const both = (a: Expr, b: Expr): Expr => e.op('and', [a, b], 'bool'),
    less = (a: Expr, b: Expr): Expr => e.op('lt', [a, b], 'bool');

  const rowsOfTile: Side = { variable: i, size: rows, start: row, end: m },
    columnsOfTile: Side = { variable: j, size: columns, start: column, end: e.index(n) },
    part: Side = { variable: k, size: depth, start, end: until };
  /**
   * Threads copy a part of an operand to a shared array, where the elements of a step of the depth lie side by side; 0
   * where the operand has no element.
   */
  const copy = (to: number, value: Expr, side: Side): GpuStmt => {
    const size = side.size * depth,
      index = e.loop(size),
      // Neighbouring threads read neighbouring elements.
      alongSide = contiguous(value, side.variable),
      p = alongSide ? e.mod(index, side.size) : e.div(index, depth),
      q = alongSide ? e.div(index, side.size) : e.mod(index, depth),
      atSide = e.add(side.start, p),
      atPart = e.add(start, q);
    const own = substitute(
      e,
      value,
      new Map<Expr, Expr>([
        [side.variable, atSide],
        [part.variable, atPart],
      ]),
    );
    const body = [
      set(one, null, e.const(0, dtype)),
      ...when(both(less(atSide, side.end), less(atPart, part.end)), [set(one, null, own)]),
      set(to, e.add(e.scale(q, side.size + PAD), p), e.local(one, dtype)),
    ];
    return { s: 'for', index, from: thread, below: e.index(size), step: threads, body };
  };

  // A thread's own sums: r counts their rows, c their columns.
  const r = e.loop(down, 'r'),
    c = e.loop(across, 'c'),
    own = e.add(e.scale(r, across), c),
    sum = e.local(sums, dtype, own);
  const q = e.loop(depth, 'q'),
    a = e.local(left, dtype, e.add([leftRow, q], [down, y], r)),
    b = e.local(right, dtype, e.add([rightRow, q], x, [width, c]));
  const next = isFloat(dtype as DType)
    ? e.op('fma', [a, b, sum], dtype)
    : e.op('add', [sum, e.op('mul', [a, b], dtype)], dtype);
  const each = (body: readonly GpuStmt[]): GpuStmt =>
    serial(e, r, e.index(down), [serial(e, c, e.index(across), body)]);

  const ownRow = e.add(row, [down, y], r),
    ownColumn = e.add(column, e.add(x, e.scale(c, width))),
    by = new Map<Expr, Expr>([
      [i, ownRow],
      [j, ownColumn],
      [e.sum(dtype), sum],
    ]),
    memo = new Map<Expr, Expr>();
  const placed = (s: Stmt): GpuStmt => {
    if (s.s === 'set' && s.index === null) return { ...s, value: substitute(e, s.value, by, memo) };
    if (s.s === 'store')
      return { ...s, index: substitute(e, s.index, by, memo), value: substitute(e, s.value, by, memo) };
    throw new VerifyError('schedule', `an epilogue has a statement '${s.s}'`);
  };
  // Most copies are complete: the loop over them has a fixed length.
  const steps = e.add(until, [-1, start]),
    isWhole = e.op('le', [e.index(depth), steps], 'bool'),
    add = (count: Expr): GpuStmt => serial(e, q, count, [each([set(sums, own, next)])]);
  const chain: GpuStmt[] = [
    each([set(sums, own, e.const(0, dtype))]),
    serial(e, chunk, count, [
      copy(left, product.a, rowsOfTile),
      copy(right, product.b, columnsOfTile),
      ...when(isWhole, [add(e.index(depth))]),
      ...when(e.op('lt', [steps, e.index(depth)], 'bool'), [add(steps)]),
    ]),
  ];
  const inParts = (of: KernelParts): GpuStmt => {
    const waiting = Array.from({ length: levelsOf(of) }, () => local({ dtype, length: down * across, shared: false })),
      waits = (level: number): Expr => e.local(waiting[level], dtype, own);
    return serial(e, p, e.index(of.parts), [
      ...chain,
      ...joinPart<GpuStmt>(
        e,
        p,
        of,
        (level) => [each([set(waiting[level], own, sum)])],
        (level) => [each([set(sums, own, e.op('add', [waits(level), sum], dtype))])],
      ),
    ]);
  };
  const inTile: GpuStmt[] = [
    ...(parts ? [inParts(parts)] : chain),
    // Threads without an element have no sums to store, and read nothing: with one column, what a row reads may lie
    // where another thread stores.
    ...when(both(less(e.add(row, [down, y]), m), less(e.add(column, x), e.index(n))), [
      serial(
        e,
        r,
        e.index(down),
        when(less(ownRow, m), [
          ...epilogue.row.map(placed),
          serial(e, c, e.index(across), when(less(ownColumn, e.index(n)), epilogue.element.map(placed))),
        ]),
      ),
    ]),
  ];
  return {
    form: 'threads',
    buffers,
    locals,
    ints,
    blocks,
    threads,
    block,
    thread,
    body: [
      set(done, null, e.index(0)),
      serial(e, z, e.index(groups), [
        { s: 'for', index: tile, from: e.mod(turn, blocks), below: tiles, step: blocks, body: inTile },
        set(done, null, e.mod(e.add(earlier, tiles), blocks)),
      ]),
    ],
  };
}

/** One dimension of the part of an operand that is copied: `size` values of a variable from `start`, below `end`. */
interface Side {
  readonly variable: Var;
  readonly size: number;
  readonly start: Expr;
  readonly end: Expr;
}

/** How many sums a thread has, down and across: as many as leave work for half of the blocks. */
function shapeOf(
  { m, n, groups, parts, dtype }: MatmulKernel,
  width: number,
  height: number,
  target: GpuTarget,
): readonly [down: number, across: number] {
  const perSum = (bytesOf(dtype) / 4) * (1 + (parts ? levelsOf(parts) : 0)),
    possible = SHAPES.filter(([down, across]) => down * across * perSum <= REGISTERS),
    tiles = ([down, across]: readonly [number, number]): number =>
      typeof m === 'number' ? groups * Math.ceil(m / (height * down)) * Math.ceil(n / (width * across)) : 0;
  const [down, across] =
    (typeof m === 'number'
      ? possible.find((shape) => tiles(shape) >= target.blocks / 2)
      : possible.find(([d, a]) => d * a <= RAGGED[0] * RAGGED[1])) ?? SHAPES[SHAPES.length - 1];
  return [
    typeof m === 'number' ? Math.max(1, Math.min(down, Math.ceil(m / height))) : down,
    Math.max(1, Math.min(across, Math.ceil(n / width))),
  ];
}
