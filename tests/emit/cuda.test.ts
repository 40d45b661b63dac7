// The printer of CUDA C++: which index values have 32 bits, and that overflow of int32 has a meaning.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { emitFile } from '../../src/emit/cuda/kernel.ts';
import { Exprs, type Expr, type Var } from '../../src/kernel/expr.ts';
import type { GpuKernel, GpuStmt } from '../../src/schedule/gpu-kernel.ts';
import { compileGraph } from '../../src/pipeline.ts';
import { buildCase } from '../conformance/harness.ts';
import { add } from '../../src/graph/ops/elementwise/add.ts';
import { runText } from '../support/cuda/shim.ts';
import { noCompiler } from '../support/toy.ts';

const THREADS = 16;

/** A kernel of one block on two int32 buffers. Locals: an index variable, a float. */
function kernel(body: (e: Exprs, thread: Var, set: (value: Expr) => GpuStmt) => readonly GpuStmt[]): GpuKernel {
  const e = new Exprs(),
    block = e.loop(1, 'block'),
    thread = e.loop(THREADS, 'thread'),
    buffer = { dtype: 'int32', access: 'update' } as const;
  return {
    form: 'threads',
    buffers: [buffer, buffer],
    locals: [
      { dtype: 'index', length: 0, shared: false },
      { dtype: 'float32', length: 0, shared: false },
    ],
    ints: 1,
    blocks: 1,
    threads: THREADS,
    block,
    thread,
    body: body(e, thread, (value) => ({ s: 'set', local: 0, index: null, value })),
  };
}
const textOf = (k: GpuKernel): string => emitFile([{ key: 'x', kernel: k }]).split('DM_KERNEL')[1];

test('an index variable has 32 bits if they hold all that it is set to', () => {
  assert.match(textOf(kernel((e, thread, set) => [set(e.index(7)), set(e.add([1000, thread], 5))])), /int32_t t0;/);
  // It may grow by itself.
  assert.match(
    textOf(
      kernel((e, thread, set) => [
        set(e.index(0)),
        {
          s: 'for',
          index: e.loop(9),
          from: thread,
          below: e.index(9),
          step: 1,
          body: [set(e.add(e.local(0, 'index'), 1))],
        },
      ]),
    ),
    /int64_t t0;/,
  );
  // A remainder is small, whatever it is a remainder of.
  assert.match(textOf(kernel((e, _, set) => [set(e.op('mod', [e.int(0), e.index(9)], 'index'))])), /int32_t t0;/);
  assert.match(textOf(kernel((e, _, set) => [set(e.int(0))])), /int64_t t0;/);
  // 3 * 2^30 does not fit.
  assert.match(textOf(kernel((e, thread, set) => [set(e.scale(thread, 2 ** 28))])), /int64_t t0;/);
});

test('sums of 32-bit values that need more are added with 64 bits', { skip: noCompiler }, async () => {
  // (x + y) mod 1000 for x and y near the end of int32.
  const k = kernel((e, thread) => {
    const x = (b: number): Expr => e.cast(e.load(b, thread, 'int32'), 'index'),
      value = e.cast(e.op('mod', [e.add(x(0), x(1)), e.index(1000)], 'index'), 'int32');
    return [{ s: 'store', buffer: 0, index: thread, value }];
  });
  const most = new Int32Array(THREADS).fill(2 ** 31 - 1),
    out = most.slice();
  await runText(emitFile([{ key: 'x', kernel: k }]), {
    name: 'k_x',
    blocks: 1,
    threads: THREADS,
    buffers: [out, most],
    ints: [0],
  });
  assert.deepEqual(
    [...out],
    Array.from(out, () => (2 * (2 ** 31 - 1)) % 1000),
  );
});

test('sums, products and negatives of int32 are computed modulo 2^32', () => {
  const text = textOf(
    kernel((e, thread) => {
      const x = e.load(0, thread, 'int32');
      return [{ s: 'store', buffer: 0, index: thread, value: e.op('mul', [x, e.op('neg', [x])]) }];
    }),
  );
  assert.match(text, /\(\(int32_t\)\(\(uint32_t\)v\d+ \* \(uint32_t\)v\d+\)\)/);
  assert.match(text, /\(\(int32_t\)\(0u - \(uint32_t\)v\d+\)\)/);
});

test('a float that is set to NaN is printed', () => {
  const text = textOf(kernel((e) => [{ s: 'set', local: 1, index: null, value: e.const(NaN, 'float32') }]));
  assert.match(text, /t1 = DM_NANF;/);
});

test('kernels for a CPU are refused', () => {
  const { graph } = buildCase({ inputs: [{ name: 'x', shape: [3] }], build: ([x]) => add(x, 1) });
  assert.throws(() => emitFile(compileGraph(graph).kernels), /a kernel for a CPU was given to a GPU/);
});
