// The C-like printer has nothing of C in it: with another dialect its text is JavaScript, which computes the bits of
// WebAssembly.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { C } from '../../src/emit/c/dialect.ts';
import type { Dialect } from '../../src/emit/clike/dialect.ts';
import { defineFunctions } from '../../src/emit/clike/functions.ts';
import { StmtWriter } from '../../src/emit/clike/stmt.ts';
import { epilogue, packA, packB } from '../../src/emit/clike/tile.ts';
import { emitModule, IMPORTS } from '../../src/emit/wasm/kernel.ts';
import { Exprs, type Expr } from '../../src/kernel/expr.ts';
import { ELEMENTARY } from '../../src/kernel/functions.ts';
import type { CpuLoops, CpuMatmul, CpuStmt } from '../../src/schedule/cpu-kernel.ts';
import { asFunction, HELPERS, JAVASCRIPT } from './javascript.ts';

type Numbers = Float32Array | Int32Array;

/** Runs a kernel as JavaScript, on its buffers in place. */
function runText(k: CpuLoops, buffers: readonly Numbers[], extent: number): void {
  const stmts = new StmtWriter(JAVASCRIPT, k.locals);
  const loop = stmts.loop(k.grid.index, '0', 'n0', k.grid.vector, k.body, undefined, stmts.declarations());
  const params = [...buffers.map((_, i) => `b${i}`), 'n0'];
  asFunction(params, [...defineFunctions(JAVASCRIPT), ...loop])(...buffers, extent);
}

/** The same as WebAssembly. */
function runWasm(k: CpuLoops, buffers: readonly Numbers[], extent: number): void {
  const { bytes } = emitModule([k], { fused: true, memory: { shared: false, pages: 4 }, scratch: 65536 }),
    memory = new WebAssembly.Memory({ initial: 4, maximum: 4 }),
    unused = Object.fromEntries(IMPORTS.map(({ name }) => [name, () => NaN]));
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(bytes), { env: { memory, ...unused } }),
    words = new Int32Array(memory.buffer);
  const SCRATCH = 65536,
    starts: number[] = [];
  let end = (2 * SCRATCH) / 4;
  for (const b of buffers) {
    words.set(new Int32Array(b.buffer), end);
    starts.push(end);
    end += b.length;
  }
  words.set([...starts.map((s) => 4 * s), extent]);
  (exports['run0'] as (...numbers: number[]) => void)(0, SCRATCH, 0, extent);
  for (const [i, b] of buffers.entries()) new Int32Array(b.buffer).set(words.subarray(starts[i], starts[i] + b.length));
}

function same(k: CpuLoops, inputs: readonly Numbers[], output: Numbers, extent: number): void {
  const [text, wasm] = [runText, runWasm].map((run) => {
    const result = output.slice();
    run(k, [...inputs, result], extent);
    return result;
  });
  assert.deepEqual(new Int32Array(text.buffer), new Int32Array(wasm.buffer));
  assert.ok(
    text.some((x) => x !== 0),
    'something was computed',
  );
}

/** Reproducible numbers around 0. */
const numbers = (n: number): Float32Array =>
  Float32Array.from({ length: n }, (_, i) => 6 * Math.sin(i * i + 1) * 2 ** ((i % 7) - 3));

const read = { dtype: 'float32', access: 'read' } as const,
  written = { dtype: 'float32', access: 'write' } as const;

for (const op of ELEMENTARY)
  test(`${op} as JavaScript has the bits of WebAssembly`, () => {
    const e = new Exprs(),
      extent = e.int(0),
      index = e.loop(extent);
    const value = e.op(op, [e.load(0, index, 'float32')], 'float32');
    const body: CpuStmt[] = [{ s: 'store', buffer: 1, index, value }];
    const grid = { index, extent, grain: 1, vector: true };
    same(
      { form: 'loops', buffers: [read, written], locals: [], ints: 1, grid, body },
      [numbers(999)],
      new Float32Array(999),
      999,
    );
  });

for (const columns of [1, 5, 16, 37, 300])
  test(`softmax of rows of ${columns}: reductions, loops, locals, conditions`, () => {
    const e = new Exprs(),
      extent = e.int(0),
      r = e.loop(extent),
      rows = 7;
    const x = (c: Expr): Expr => e.load(0, e.add(e.scale(r, columns), c), 'float32'),
      powerOf = (c: Expr): Expr => e.op('exp', [e.op('sub', [x(c), e.local(0, 'float32')], 'float32')], 'float32'),
      one = (c: Expr): Expr => e.local(2, 'float32', c);
    const [i, j, c, d] = [columns, columns, columns, columns].map((n) => e.loop(n)),
      size = e.index(columns),
      place = e.add(e.scale(r, columns), d);
    const sign = e.op('lt', [e.load(1, r, 'int32'), e.const(0, 'int32')], 'bool');
    const body: CpuStmt[] = [
      { s: 'reduce', index: i, extent: size, targets: [{ local: 0, op: 'max', value: x(i) }], blocks: null },
      { s: 'fill', local: 2, value: -1 },
      { s: 'for', index: c, extent: size, vector: true, body: [{ s: 'set', local: 2, index: c, value: powerOf(c) }] },
      { s: 'reduce', index: j, extent: size, targets: [{ local: 1, op: 'sum', value: one(j) }], blocks: null },
      {
        s: 'for',
        index: d,
        extent: size,
        vector: true,
        body: [{ s: 'store', buffer: 2, index: place, value: e.op('div', [one(d), e.local(1, 'float32')], 'float32') }],
      },
      {
        s: 'if',
        condition: sign,
        body: [
          { s: 'store', buffer: 2, index: e.scale(r, columns), value: e.op('neg', [e.local(0, 'float32')], 'float32') },
        ],
      },
    ];
    const kernel: CpuLoops = {
      form: 'loops',
      buffers: [read, { dtype: 'int32', access: 'read' }, written],
      locals: [
        { dtype: 'float32', length: 0 },
        { dtype: 'float32', length: 0 },
        { dtype: 'float32', length: columns },
      ],
      ints: 1,
      grid: { index: r, extent, grain: 1, vector: false },
      body,
    };
    const signs = Int32Array.from({ length: rows }, (_, n) => (n % 3) - 1);
    same(kernel, [numbers(rows * columns), signs], new Float32Array(rows * columns), rows);
  });

/** 2 a, b and an epilogue, with operands that are packed. */
function matmul(along: 'i' | 'k', other: 'j' | 'k', m: number, n: number, depth: number): CpuMatmul {
  const e = new Exprs(),
    [z, i, j, k] = [e.loop(1, 'z'), e.loop(m, 'i'), e.loop(n, 'j'), e.loop(depth, 'k')];
  const a = e.op('mul', [e.load(0, e.add(e.scale(i, depth), k), 'float32'), e.const(2, 'float32')], 'float32'),
    b = e.load(1, e.add(e.scale(k, n), j), 'float32'),
    value = e.op('add', [e.sum('float32'), e.local(0, 'float32')], 'float32');
  return {
    form: 'matmul',
    parts: null,
    buffers: [read, read, read, written],
    locals: [{ dtype: 'float32', length: 0 }],
    ints: 0,
    ...{ z, i, j, k, groups: 1, m, n, depth, a, b, dtype: 'float32' },
    packA: { inner: along === 'i' ? i : k, run: null },
    packB: { inner: other === 'k' ? k : j, run: null },
    panels: null,
    epilogue: {
      row: [{ s: 'set', local: 0, index: null, value: e.load(2, i, 'float32') }],
      element: [{ s: 'store', buffer: 3, index: e.add(e.scale(i, n), j), value }],
    },
  };
}

for (const along of ['i', 'k'] as const)
  for (const other of ['j', 'k'] as const)
    test(`a product whose operands are packed along ${along} and ${other}`, () => {
      const [m, n, depth] = [3, 5, 4],
        k = matmul(along, other, m, n, depth),
        [x, y, z] = [numbers(m * depth), numbers(depth * n), numbers(m)],
        result = new Float32Array(m * n);
      const pack = (lines: readonly string[], b: Float32Array, sizes: Record<string, number>): Float32Array => {
        const dst = new Float32Array(100),
          all = { b0: b, b1: b, dst, ld: 10, ...sizes };
        asFunction(Object.keys(all), lines)(...Object.values(all));
        return dst;
      };
      const a = pack(packA(JAVASCRIPT, k), x, { i0: 0, ni: m, k0: 0, nk: depth }),
        b = pack(packB(JAVASCRIPT, k), y, { k0: 0, nk: depth, j0: 0, nj: n }),
        acc = new Float32Array(10 * m);
      const at = (row: number, q: number): number => a[along === 'i' ? 10 * q + row : 10 * row + q];
      for (let i = 0; i < m; i++)
        for (let j = 0; j < n; j++)
          for (let q = 0; q < depth; q++) acc[10 * i + j] = HELPERS.fma(at(i, q), b[10 * q + j], acc[10 * i + j]);
      const all = { b2: z, b3: result, acc, ld: 10, i0: 0, ni: m, j0: 0, nj: n };
      asFunction(Object.keys(all), epilogue(JAVASCRIPT, k))(...Object.values(all));
      for (let i = 0; i < m; i++)
        for (let j = 0; j < n; j++) {
          let sum = 0;
          for (let q = 0; q < depth; q++) sum = Math.fround(HELPERS.fma(2 * x[i * depth + q], y[q * n + j], sum));
          assert.equal(result[i * n + j], Math.fround(sum + z[i]));
        }
    });

test('text of one dialect has nothing of another', () => {
  const words = (d: Dialect): string => [...defineFunctions(d), ...packA(d, matmul('i', 'j', 3, 5, 4))].join('\n');
  assert.match(words(C), /\b(?:float|int64_t)\b/);
  assert.doesNotMatch(words(JAVASCRIPT), /\b(?:float|int\w*|static|__\w+|dm_\w+|DM_\w+)\b/);
});
