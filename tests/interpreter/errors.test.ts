// Each error that the interpreter reports, with a kernel that has it, and the same kernel without it.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Exprs, type Expr, type Var } from '../../src/kernel/expr.ts';
import type { CpuKernel } from '../../src/schedule/cpu-kernel.ts';
import type { GpuKernel, GpuStmt } from '../../src/schedule/gpu-kernel.ts';
import { GPU } from '../../src/schedule/gpu.ts';
import type { Scheduled } from '../../src/schedule/schedule.ts';
import { NATIVE, type Target } from '../../src/schedule/target.ts';
import { Interpreter } from './device.ts';

const THREADS = 32,
  ELEMENTS = 64;

/** Runs a kernel on one buffer of 0, 1, 2, ... and returns it. */
async function run(kernel: Scheduled, target: Target = GPU): Promise<Float32Array> {
  const device = new Interpreter(target),
    memory = device.alloc(4 * ELEMENTS),
    place = { memory, offset: 0 },
    into = new Float32Array(ELEMENTS);
  device.write(
    place,
    Float32Array.from(into, (_, i) => i),
  );
  await device.compile([{ key: 'planted', kernel }]);
  const step = { kernel: 'planted', buffers: [place], ints: [], barrier: false, unless: null };
  await device.bind([step]).run();
  await device.read([{ place, into }]);
  return into;
}

/** What a planted kernel is written with. Local 0 is a shared array, local 1 a scalar of each thread. */
interface Parts {
  readonly e: Exprs;
  readonly block: Var;
  readonly thread: Var;
  readonly at: (i: Expr | number) => Expr;
  readonly load: (i: Expr | number) => Expr;
  readonly shared: (i: Expr | number) => Expr;
  readonly store: (i: Expr | number, value: Expr) => GpuStmt;
  readonly set: (i: Expr | number, value: Expr) => GpuStmt;
  readonly first: (count: number, body: readonly GpuStmt[]) => GpuStmt;
}
const barrier: GpuStmt = { s: 'barrier' };

function planted(body: (p: Parts) => readonly GpuStmt[], blocks = 1): GpuKernel {
  const e = new Exprs(),
    block = e.loop(blocks, 'block'),
    thread = e.loop(THREADS, 'thread'),
    at = (i: Expr | number): Expr => (typeof i === 'number' ? e.index(i) : i);
  const parts: Parts = {
    e,
    block,
    thread,
    at,
    load: (i) => e.load(0, at(i), 'float32'),
    shared: (i) => e.local(0, 'float32', at(i)),
    store: (i, value) => ({ s: 'store', buffer: 0, index: at(i), value }),
    set: (i, value) => ({ s: 'set', local: 0, index: at(i), value }),
    first: (count, inside) => ({ s: 'if', condition: e.op('lt', [thread, at(count)], 'bool'), body: inside }),
  };
  return {
    form: 'threads',
    buffers: [{ dtype: 'float32', access: 'update' }],
    locals: [
      { dtype: 'float32', length: ELEMENTS, shared: true },
      { dtype: 'float32', length: 0, shared: false },
    ],
    ints: 0,
    blocks,
    threads: THREADS,
    block,
    thread,
    body: body(parts),
  };
}

test('divergence: a barrier that only some threads reach', async () => {
  await assert.rejects(
    run(planted(({ first }) => [first(16, [barrier])])),
    /divergence: thread 0 of block 0 waits at barrier 0, thread 16 has ended/,
  );
  // Threads wait equally often, but at different barriers.
  const apart = planted(({ e, thread, at, first }) => [
    first(16, [barrier]),
    { s: 'if', condition: e.op('le', [at(16), thread], 'bool'), body: [barrier] },
  ]);
  await assert.rejects(run(apart), /thread 0 of block 0 waits at barrier 0, thread 16 waits at barrier 1/);
  await run(planted(({ first }) => [first(THREADS, [barrier])]));
});

test('races in shared memory', async () => {
  /** Each thread sets its element and reads that of its neighbour. */
  const neighbours = (between: readonly GpuStmt[]): GpuKernel =>
    planted(({ e, thread, load, shared, set, store }) => [
      set(thread, load(thread)),
      set(e.add(thread, e.index(THREADS)), load(thread)),
      barrier,
      set(thread, load(thread)),
      ...between,
      store(thread, shared(e.add(thread, e.index(1)))),
    ]);
  await assert.rejects(run(neighbours([])), /a race: thread \d+ (reads|writes) t0\[\d+\], and thread \d+/);
  assert.deepEqual((await run(neighbours([barrier]))).slice(0, 3), Float32Array.of(1, 2, 3));
  // Two threads set one element.
  await assert.rejects(
    run(planted(({ set, load, thread }) => [set(0, load(thread))])),
    /thread 1 writes t0\[0\], and thread 0 writes it at the same time/,
  );
  // One thread sets what another has read in the same phase.
  const readFirst = planted(({ first, set, load, shared, thread, store }) => [
    first(1, [set(0, load(0))]),
    barrier,
    store(thread, shared(0)),
    first(1, [set(0, load(1))]),
  ]);
  await assert.rejects(run(readFirst), /thread 1 reads t0\[0\], and thread 0 writes it at the same time/);
});

test('races in device memory: within a block, and between blocks', async () => {
  const neighbours = (between: readonly GpuStmt[]): GpuKernel =>
    planted(({ e, thread, load, store }) => [
      { s: 'set', local: 1, index: null, value: load(e.add(thread, e.index(1))) },
      ...between,
      store(thread, e.local(1, 'float32')),
    ]);
  await assert.rejects(run(neighbours([])), /a race: thread \d+ (reads|writes) b0\[\d+\]/);
  assert.deepEqual((await run(neighbours([barrier]))).slice(0, 3), Float32Array.of(1, 2, 3));
  // A barrier does not help between blocks.
  const blocks = (index: (p: Parts) => Expr): GpuKernel =>
    planted((p) => [p.first(1, [p.store(p.block, p.load(index(p)))]), barrier], 2);
  await assert.rejects(
    run(blocks(({ at }) => at(0))),
    /a race: thread 0 reads b0\[0\], and another block writes it at the same time/,
  );
  await assert.rejects(
    run(blocks(({ at }) => at(1))),
    /a race: thread 0 writes b0\[1\], and another block reads it at the same time/,
  );
  await run(blocks(({ block }) => block));
  // Both blocks store the same element.
  await assert.rejects(
    run(planted(({ first, store, e }) => [first(1, [store(3, e.const(1, 'float32'))])], 2)),
    /writes b0\[3\], and another block writes it/,
  );
});

test('accesses outside a buffer or an array', async () => {
  const reads = (index: (p: Parts) => Expr | number): GpuKernel =>
    planted((p) => [p.first(1, [p.store(0, p.load(index(p)))])]);
  await assert.rejects(run(reads(() => ELEMENTS)), /thread 0 reads b0\[64\], which has 64 elements/);
  await assert.rejects(run(reads(({ e, thread }) => e.linear(-1, [[1, thread]]))), /reads b0\[-1\]/);
  await run(reads(() => ELEMENTS - 1));
  await assert.rejects(
    run(planted(({ store, e, thread }) => [store(e.scale(thread, 3), e.const(0, 'float32'))])),
    /thread 22 writes b0\[66\]/,
  );
  await assert.rejects(run(planted(({ set, e }) => [set(64, e.const(0, 'float32'))])), /thread 0 writes t0\[64\]/);
});

test('shared elements that no thread of the block has set', async () => {
  const kernel = (blocks: number): GpuKernel =>
    planted(
      ({ e, block, thread, first, set, load, shared, store }) => [
        // Only the first block sets what all blocks read.
        {
          s: 'if',
          condition: e.op('lt', [block, e.index(1)], 'bool'),
          body: [first(1, [set(5, load(thread))])],
        },
        barrier,
        first(1, [store(block, shared(5))]),
      ],
      blocks,
    );
  await run(kernel(1));
  await assert.rejects(run(kernel(2)), /thread 0 reads t0\[5\], which has no value/);
});

/** A CPU's kernel whose iterations add to an element, or add up. */
function cpu(grain: number, vector: boolean, from: (e: Exprs, i: Expr) => Expr): CpuKernel {
  const e = new Exprs(),
    index = e.loop(ELEMENTS - 1, 'i');
  const load = (i: Expr): Expr => e.load(0, i, 'float32'),
    next = e.add(index, e.index(1));
  return {
    form: 'loops',
    buffers: [{ dtype: 'float32', access: 'update' }],
    locals: [],
    ints: 0,
    grid: { index, extent: e.index(ELEMENTS - 1), grain, vector },
    body: [{ s: 'store', buffer: 0, index: next, value: e.op('add', [load(next), load(from(e, index))], 'float32') }],
  };
}

test('a CPU: tasks that need one another, and iterations that are not independent', async () => {
  const own = (e: Exprs, i: Expr): Expr => e.add(i, e.index(1)),
    before = (_: Exprs, i: Expr): Expr => i;
  await run(cpu(8, false, own), NATIVE);
  await assert.rejects(
    run(cpu(8, false, before), NATIVE),
    /a race: thread 0 reads b0\[8\], and another block writes it/,
  );
  // In one task, one after the other, iterations may add up: 0 + 1 + ... + 63.
  assert.equal((await run(cpu(64, false, before), NATIVE))[63], (63 * 64) / 2);
  // At the same time they may not: the interpreter runs them in another order.
  assert.notEqual((await run(cpu(64, true, before), NATIVE))[63], (63 * 64) / 2);
});
