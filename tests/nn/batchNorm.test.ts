// Batch normalisation: its results, which statistics training and evaluation use, and that a step changes the running
// statistics completely or not at all.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { Stream } from '../../src/base/random.ts';
import { hostTensor, type Batch } from '../../src/base/tensor.ts';
import { gradients } from '../../src/grad/differentiate.ts';
import { mul } from '../../src/graph/ops/elementwise/mul.ts';
import { ops } from '../../src/graph/ops/index.ts';
import { sum } from '../../src/graph/ops/reduce/sum.ts';
import type { Tensor } from '../../src/graph/tensor.ts';
import { BatchNorm } from '../../src/nn/batchNorm.ts';
import { meanSquaredError } from '../../src/nn/loss.ts';
import { sgd } from '../../src/optim/sgd.ts';
import { compileGraph, loadProgram } from '../../src/pipeline.ts';
import { ProgramExecutor } from '../../src/run/program.ts';
import { ReferenceExecutor } from '../../src/run/reference.ts';
import { WasmDevice } from '../../src/device/wasm/wasm.ts';
import { compile } from '../../src/session/node.ts';
import type { Session } from '../../src/session/session.ts';
import { NonFiniteError, type CompileOptions } from '../../src/session/step.ts';
import { nameParameters } from '../../src/trace/module.ts';
import { call, trace } from '../../src/trace/trace.ts';
import { temporaryFolder } from '../io/folder.ts';
import { fingerprint, noCompiler } from '../support/toy.ts';

class Model {
  readonly norm: BatchNorm;
  constructor(width = 3) {
    this.norm = new BatchNorm(width, { momentum: 0.25 });
  }
  forward(x: Tensor): Tensor {
    return call(this.norm, x);
  }
}

/** Random numbers that depend on the step; each column has another mean and scale. */
function batch(step: number, rows: number, width = 3): Batch {
  const stream = new Stream(4, 'norm'),
    x = Float32Array.from(
      { length: rows * width },
      (_, i) => stream.normal(step, i) * (1 + (i % width)) + 5 * (i % width),
    );
  return {
    x: hostTensor('float32', [rows, width], x),
    y: hostTensor(
      'float32',
      [rows, width],
      x.map(() => 0.5),
    ),
  };
}

/** [mean, variance] of each column, over the rows from..to. */
const statistics = (
  {
    x: {
      data,
      shape: [rows, width],
    },
  }: Batch,
  from = 0,
  to = rows,
): [number, number][] =>
  Array.from({ length: width }, (_, c) => {
    const column = Array.from({ length: to - from }, (__, r) => data[(from + r) * width + c]),
      mean = column.reduce((a, b) => a + b, 0) / column.length;
    return [mean, column.reduce((a, b) => a + (b - mean) ** 2, 0) / column.length];
  });

const open = (options: Partial<CompileOptions>): Promise<Session> =>
  compile(new Model(), { loss: meanSquaredError, optimizer: sgd({ lr: 0.1 }), ...options });
const running = (session: Session): number[] =>
  ['norm.runningMean', 'norm.runningVariance'].flatMap((name) => Array.from(session.executor.peekState(name).data));
const close = (got: ArrayLike<number>, wanted: ArrayLike<number>, what: string): void => {
  for (let i = 0; i < wanted.length; i++)
    assert.ok(
      Math.abs(got[i] - wanted[i]) < 1e-4 * Math.max(1, Math.abs(wanted[i])),
      `${what} ${i}: ${got[i]}, wanted ${wanted[i]}`,
    );
};

for (const device of ['native', 'wasm', 'reference'] as const) {
  const skip = device === 'native' ? noCompiler : false;
  test(
    `${device}: training uses the batch's statistics and updates the running ones, which evaluation uses`,
    { skip },
    async () => {
      await using session = await open({ device, optimizer: sgd({ lr: 0 }) });
      let wanted = [0, 0, 0, 1, 1, 1];
      for (let step = 0; step < 3; step++) {
        const b = batch(step, 8),
          stats = statistics(b),
          fresh = [...stats.map(([m]) => m), ...stats.map(([, v]) => (v * 8) / 7)];
        wanted = wanted.map((v, i) => 0.75 * v + 0.25 * fresh[i]);
        const { loss } = await session.step(b);
        const columns = stats.map(([, v]) => v / (v + 1e-5)); // mean squares of the normalised columns
        close([loss], [columns.reduce((s, v) => s + v + 0.25, 0) / 3], 'loss');
        close(running(session), wanted, 'running');
      }
      const held = batch(9, 2),
        { data } = await session.predict(held.x);
      close(
        data,
        Array.from(held.x.data, (v, i) => (v - wanted[i % 3]) / Math.sqrt(wanted[3 + (i % 3)] + 1e-5)),
        'output',
      );
    },
  );

  test(`${device}: a failed step changes no statistics, also with accumulation`, { skip }, async () => {
    for (const accumulate of [1, 2]) {
      await using session = await open({ device, accumulate }),
        other = await open({ device, accumulate });
      await session.step(batch(0, 4));
      const before = fingerprint(session),
        bad = batch(1, 4);
      bad.x.data[10] = Infinity; // in the second half
      await assert.rejects(session.step(bad), NonFiniteError);
      assert.deepEqual(fingerprint(session), before);
      await session.step(batch(2, 4));
      await other.step(batch(0, 4));
      await other.step(batch(2, 4));
      assert.deepEqual(fingerprint(session), fingerprint(other));
    }
  });
}

test('with accumulation the running statistics are updated once a step, by the mean over micro-batches', async () => {
  await using session = await open({ device: 'reference', accumulate: 2 });
  const b = batch(0, 8),
    halves = [statistics(b, 0, 4), statistics(b, 4, 8)];
  await session.step(b);
  close(
    running(session),
    [
      ...[0, 1, 2].map((c) => (0.25 * (halves[0][c][0] + halves[1][c][0])) / 2),
      ...[0, 1, 2].map((c) => 0.75 + (0.25 * (4 / 3) * (halves[0][c][1] + halves[1][c][1])) / 2),
    ],
    'running',
  );
});

test('a checkpoint contains the running statistics, and the optimizer has no moments of them', async (t) => {
  const path = join(await temporaryFolder(t), 'norm.safetensors');
  await using session = await open({ device: 'reference', optimizer: sgd({ lr: 0.1, momentum: 0.9 }) }),
    other = await open({ device: 'reference', optimizer: sgd({ lr: 0.1, momentum: 0.9 }) });
  await session.step(batch(0, 6));
  await session.save(path);
  await other.load(path);
  assert.deepEqual(running(other), running(session));
  assert.deepEqual(
    session
      .states()
      .map((s) => s.name)
      .sort(),
    [
      'norm.bias',
      'norm.gain',
      'norm.runningMean',
      'norm.runningVariance',
      'optim/momentum/norm.bias',
      'optim/momentum/norm.gain',
    ],
  );
  await session.step(batch(1, 6));
  await other.step(batch(1, 6));
  assert.deepEqual(fingerprint(other), fingerprint(session));
});

test('a layer that is used twice updates its running statistics twice', async () => {
  class Twice extends Model {
    override forward(x: Tensor): Tensor {
      return call(this.norm, call(this.norm, x));
    }
  }
  await using session = await compile(new Twice(), {
    loss: meanSquaredError,
    optimizer: sgd({ lr: 0.1 }),
    device: 'reference',
  });
  const b = batch(0, 8),
    first = statistics(b);
  await session.step(b);
  close(
    running(session),
    [
      ...first.map(([m]) => 0.75 * 0.25 * m),
      ...first.map(([, v]) => 0.75 * (0.75 + (0.25 * v * 8) / 7) + (0.25 * (v / (v + 1e-5)) * 8) / 7),
    ],
    'running',
  );
});

/** The graph of one training pass over `count` of 6 rows, with the gradient to x. */
function counted(model: Model): ReturnType<typeof trace> {
  return trace(ops, nameParameters(model), true, (t) => {
    const n = t.input('input', 'n', { dtype: 'int32', shape: [] }),
      dim = { kind: 'bounded' as const, bound: 6, count: n.id };
    const x = t.input('input', 'x', { dtype: 'float32', shape: [dim, 3] }),
      w = t.input('input', 'w', { dtype: 'float32', shape: [dim, 3] });
    const y = call(model.norm, x),
      loss = sum(mul(mul(y, y), w));
    t.output('y', y);
    t.output('loss', loss);
    const [dx] = gradients(t, loss, [x]);
    assert.ok(dx);
    t.output('dx', dx);
  });
}

for (const count of [0, 1, 4, 6]) {
  test(`${count} of 6 rows: statistics of the counted rows, gradient against finite differences`, async () => {
    const model = new Model(),
      graph = counted(model),
      b = batch(3, 6),
      w = batch(5, 6).x.data as Float32Array;
    const poisoned = (v: ArrayLike<number>): Float64Array => Float64Array.from(v, (x, i) => (i < 3 * count ? x : NaN));
    const named = [...nameParameters(model).parameters],
      start = (name: string): number => (/gain|Variance/.test(name) ? 1 : 0);
    const run = async (x: Float64Array): Promise<{ out: Record<string, ArrayLike<number>>; stats: number[] }> => {
      const executor = new ReferenceExecutor();
      for (const [name, p] of named)
        executor.setState(name, { dtype: 'float32', shape: p.shape }, new Float32Array(3).fill(start(name)));
      const out = await executor.run(executor.load(graph), { n: Int32Array.of(count), x, w: poisoned(w) });
      return {
        out: Object.fromEntries(Object.entries(out).map(([k, v]) => [k, v.data])),
        stats: ['norm.runningMean', 'norm.runningVariance'].flatMap((n) => Array.from(executor.peekState(n).data)),
      };
    };
    const x = poisoned(b.x.data),
      { out, stats } = await run(x);
    // One row has no variance: the layer then uses the running statistics, initially 0 and 1, and keeps them.
    const still = [0, 0, 0].map((m): [number, number] => [m, 1]),
      n = Math.max(count - 1, 1);
    const rows = count === 0 ? [] : count === 1 ? still : statistics(b, 0, count);
    close(
      stats,
      count <= 1
        ? [0, 0, 0, 1, 1, 1]
        : [...rows.map(([m]) => 0.25 * m), ...rows.map(([, v]) => 0.75 + (0.25 * v * count) / n)],
      'running',
    );
    close(
      out['y'],
      count === 0
        ? []
        : Array.from({ length: 3 * count }, (_, i) => (x[i] - rows[i % 3][0]) / Math.sqrt(rows[i % 3][1] + 1e-5)),
      'y',
    );
    for (let i = 0; i < 3 * count; i++) {
      const at = async (h: number): Promise<number> =>
        (await run(x.map((v, j) => (i === j ? v + h : v)))).out['loss'][0];
      const h = 1e-4,
        slope = (8 * ((await at(h)) - (await at(-h))) - ((await at(2 * h)) - (await at(-2 * h)))) / (12 * h);
      assert.ok(Math.abs(slope - out['dx'][i]) < 1e-5, `dx ${i}: ${out['dx'][i]}, differences give ${slope}`);
    }
    // the same on a device
    const executor = new ProgramExecutor(await WasmDevice.open(1));
    for (const [name, p] of named)
      executor.setState(name, { dtype: 'float32', shape: p.shape }, new Float32Array(3).fill(start(name)));
    const got = await executor.run(await loadProgram(executor, compileGraph(graph, executor.device.target)), {
      n: Int32Array.of(count),
      x: Float32Array.from(x),
      w: Float32Array.from(poisoned(w)),
    });
    close(got['y'].data, Array.from(out['y']).slice(0, 3 * count), 'y on a device');
    close(got['dx'].data, Array.from(out['dx']).slice(0, 3 * count), 'dx on a device');
    close(
      ['norm.runningMean', 'norm.runningVariance'].flatMap((name) => Array.from(executor.peekState(name).data)),
      stats,
      'running on a device',
    );
    await executor.close();
  });
}

test('a wrong number of columns is refused by name', async () => {
  await using session = await open({ device: 'reference' });
  await assert.rejects(
    session.step(batch(0, 4, 2)),
    /BatchNorm: columns of the last axis must be 3, got float32\[4, 2\]/,
  );
});

test('statistics of too few rows are refused by name, in micro-batches too, and nothing is stored', async () => {
  await using session = await open({ device: 'reference' }),
    parts = await open({ device: 'reference', accumulate: 2 });
  const message =
    /BatchNorm at norm: statistics need at least 2 elements a column in training, got float32\[1, 3\].*split/s;
  await assert.rejects(session.step(batch(0, 1)), { name: 'UserError', message });
  await session.predict(batch(0, 1).x); // evaluation uses the running statistics
  await assert.rejects(parts.step(batch(0, 2)), /BatchNorm at norm: statistics need at least 2 elements/);
  const before = fingerprint(session);
  session.batching.split = 4;
  await assert.rejects(session.step(batch(0, 4)), /BatchNorm at norm/);
  assert.deepEqual(fingerprint(session), before);
  session.batching.split = 2;
  assert.equal((await session.step(batch(0, 4))).step, 1);
});
