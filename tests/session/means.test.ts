// A loss is a mean over counted elements (targets that are not ignored, or a sum of weights). `accumulate`, `split` and
// evaluations in several batches give the loss and gradients of the whole batch, whatever the loss ignores or weights.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { hostTensor, type Batch, type HostTensor } from '../../src/base/tensor.ts';
import { abs } from '../../src/graph/ops/elementwise/abs.ts';
import { add } from '../../src/graph/ops/elementwise/add.ts';
import { cast } from '../../src/graph/ops/elementwise/cast.ts';
import { crossEntropy as rowsOf } from '../../src/graph/ops/reduce/crossEntropy.ts';
import { div } from '../../src/graph/ops/elementwise/div.ts';
import { equal } from '../../src/graph/ops/elementwise/equal.ts';
import { less } from '../../src/graph/ops/elementwise/less.ts';
import { logSoftmax } from '../../src/graph/ops/reduce/logSoftmax.ts';
import { logicalNot } from '../../src/graph/ops/elementwise/logicalNot.ts';
import { maximum } from '../../src/graph/ops/elementwise/maximum.ts';
import { mul } from '../../src/graph/ops/elementwise/mul.ts';
import { sigmoid } from '../../src/graph/ops/elementwise/sigmoid.ts';
import { softmax } from '../../src/graph/ops/reduce/softmax.ts';
import { sub } from '../../src/graph/ops/elementwise/sub.ts';
import { mean, sum } from '../../src/graph/ops/reduce/sum.ts';
import { where } from '../../src/graph/ops/elementwise/where.ts';
import { scalar, type Tensor } from '../../src/graph/tensor.ts';
import { Linear } from '../../src/nn/linear.ts';
import * as loss from '../../src/nn/loss.ts';
import { groupBy } from '../../src/nn/moe/operators.ts';
import { adamW } from '../../src/optim/adam.ts';
import { sgd } from '../../src/optim/sgd.ts';
import { compile } from '../../src/session/node.ts';
import type { Session } from '../../src/session/session.ts';
import type { CompileOptions } from '../../src/session/step.ts';
import { setDtype } from '../../src/trace/module.ts';
import { Parameter } from '../../src/trace/parameter.ts';
import { call, traceOf, use } from '../../src/trace/trace.ts';
import { peek } from '../support/delayed-device.ts';
import { fingerprint, noCompiler, toyBatch, toyLM } from '../support/toy.ts';

const [INPUTS, CLASSES, IGNORED] = [3, 4, -100];

/**
 * classes: class targets, some of them ignored. floats: targets, some of them below 0, which masks of some losses leave
 * out.
 */
const classes = (rows: number): fc.Arbitrary<number[]> =>
  fc.array(fc.oneof(fc.integer({ min: 0, max: CLASSES - 1 }), fc.constant(IGNORED)), {
    minLength: rows,
    maxLength: rows,
  });
const floats = (count: number): fc.Arbitrary<number[]> =>
  fc.array(
    fc.integer({ min: -8, max: 8 }).map((n) => n / 4),
    { minLength: count, maxLength: count },
  );

interface Case {
  readonly name: string;
  readonly of: 'classes' | 'floats';
  readonly loss: loss.Loss;
}

const ignoring = { ignoreIndex: IGNORED },
  classWeights = [1, 2, 0.5, 0];
/** unit: maps floats to targets from 0 to 1. shares: maps them to rows that sum to 1. */
const unit = (t: Tensor): Tensor => sigmoid(t),
  shares = (t: Tensor): Tensor => softmax(t);
const squares = (o: Tensor, t: Tensor): Tensor => {
  const d = sub(o, t);
  return mul(d, d);
};
const positive = (t: Tensor): Tensor => less(scalar(t, 0), t);
const known = (t: Tensor): Tensor => where(equal(t, IGNORED), scalar(t, 0), t);
const counts = (t: Tensor): Tensor => cast(logicalNot(equal(t, IGNORED)), 'float32');

const CASES: readonly Case[] = [
  { name: 'ignored targets', of: 'classes', loss: (o, t) => loss.crossEntropy(o, t, ignoring) },
  {
    name: 'ignored targets, class weights',
    of: 'classes',
    loss: (o, t) => loss.crossEntropy(o, t, { ...ignoring, classWeights }),
  },
  {
    name: 'smoothed labels',
    of: 'classes',
    loss: (o, t) => loss.crossEntropy(o, t, { ...ignoring, classWeights, labelSmoothing: 0.2 }),
  },
  {
    name: 'class weights only',
    of: 'classes',
    loss: (o, t) => loss.crossEntropy(o, known(t), { classWeights }),
  },
  { name: 'cross-entropy', of: 'classes', loss: (o, t) => loss.crossEntropy(o, known(t)) },
  { name: 'nll', of: 'classes', loss: (o, t) => loss.nll(logSoftmax(o), known(t)) },
  { name: 'mask by the user', of: 'classes', loss: (o, t) => loss.meanOver(rowsOf(o, known(t)), counts(t)) },
  {
    name: 'mean by the user that reports its count',
    of: 'classes',
    loss: (o, t) => {
      const n = sum(counts(t));
      return loss.counted(div(sum(mul(rowsOf(o, known(t)), counts(t))), maximum(n, 1)), n);
    },
  },
  { name: 'mean by the user without a count', of: 'floats', loss: (o, t) => mean(squares(o, t)) },
  { name: 'masked elements', of: 'floats', loss: (o, t) => loss.meanOver(abs(sub(o, t)), positive(t)) },
  {
    name: 'weighted rows',
    of: 'floats',
    loss: (o, t) => loss.meanOver(squares(o, t), asColumn(maximum(sum(t, [1]), 0))),
  },
  ...Object.entries({
    meanSquaredError: loss.meanSquaredError,
    meanAbsoluteError: loss.meanAbsoluteError,
    huber: loss.huber,
    hinge: loss.hinge,
    cosineSimilarity: loss.cosineSimilarity,
    binaryCrossEntropyWithLogits: (o: Tensor, t: Tensor) =>
      loss.binaryCrossEntropyWithLogits(o, unit(t), { positiveWeight: 2 }),
    klDivergence: (o: Tensor, t: Tensor) => loss.klDivergence(logSoftmax(o), shares(t)),
  }).map(([name, l]): Case => ({ name, of: 'floats', loss: l })),
  {
    name: 'terms with different counts',
    of: 'classes',
    loss: (o, t) =>
      add(
        add(
          loss.crossEntropy(o, t, ignoring),
          mul(loss.meanOver(sum(mul(o, o), [1]), cast(equal(t, 1), 'float32')), 0.3),
        ),
        mul(mean(abs(o)), 0.05),
      ),
  },
  {
    name: 'rows whose number varies at run time',
    of: 'classes',
    loss: (o, t) => {
      const { rows } = groupBy(o, asColumn(known(t)), { experts: CLASSES });
      return add(loss.meanOver(mul(rows[1], rows[1])), mul(loss.meanOver(sum(rows[3], [1])), 0.5));
    },
  },
  { name: 'a multiple', of: 'classes', loss: (o, t) => mul(loss.crossEntropy(o, t, ignoring), 3) },
];

function asColumn(x: Tensor): Tensor {
  const [rows] = x.shape;
  return traceOf(x).emit('reshape', [x], { shape: [rows as number, 1] })[0];
}

const batchOf = (c: Case, x: readonly number[], y: readonly number[]): Batch => {
  const rows = x.length / INPUTS;
  return {
    x: hostTensor('float32', [rows, INPUTS], x),
    y: c.of === 'classes' ? hostTensor('int32', [rows], y) : hostTensor('float32', [rows, CLASSES], y),
  };
};

const cut = ({ x, y }: Batch, from: number, to: number): Batch => {
  const part = (t: HostTensor): HostTensor => {
    const each = t.data.length / t.shape[0];
    return { ...t, shape: [to - from, ...t.shape.slice(1)], data: t.data.slice(from * each, to * each) };
  };
  return { x: part(x), y: part(y) };
};

const near = (a: number, b: number, what: string): void => {
  assert.ok(Math.abs(a - b) <= 2e-5 * Math.max(1, Math.abs(b)), `${what}: ${a}, not ${b}`);
};

const drawn = fc.record({ c: fc.constantFrom(...CASES), rows: fc.constantFrom(4, 6, 12) }).chain(({ c, rows }) =>
  fc.record({
    c: fc.constant(c),
    rows: fc.constant(rows),
    x: floats(rows * INPUTS),
    y: c.of === 'classes' ? classes(rows) : floats(rows * CLASSES),
    accumulate: fc.constantFrom(...[1, 2, 3, 4, 6].filter((n) => rows % n === 0)),
    cuts: fc.uniqueArray(fc.integer({ min: 1, max: rows - 1 }), { maxLength: 3 }),
  }),
);

/** Loss, norm and gradients of one step, as SGD with a rate of 1 shows them. */
async function stepOf(options: CompileOptions, batch: Batch): Promise<number[]> {
  await using session = await compile(new Linear(INPUTS, CLASSES), { ...options, seed: 5 });
  const before = session.states().flatMap(({ read }) => [...peek(read).data]),
    { loss: value, gradNorm } = await session.step(batch);
  return [
    value,
    gradNorm,
    ...session
      .states()
      .flatMap(({ read }) => [...peek(read).data])
      .map((v, i) => v - before[i]),
  ];
}

for (const device of ['wasm', 'reference', 'native'] as const) {
  const skip = device === 'native' && noCompiler;
  test(
    `${device}: a loss and its gradients in parts, and its evaluation in pieces, equal those of the whole batch`,
    { skip, timeout: 240_000 },
    async () => {
      await fc.assert(
        fc.asyncProperty(drawn, async ({ c, rows, x, y, accumulate, cuts }) => {
          const options = { loss: c.loss, optimizer: sgd({ lr: 1 }), device, threads: 1 },
            batch = batchOf(c, x, y);
          const whole = await stepOf(options, batch),
            split = rows % (2 * accumulate) === 0 ? 2 : 1;
          for (const how of [{ accumulate }, { split: accumulate }, { accumulate, split }]) {
            const parts = await stepOf({ ...options, ...how }, batch);
            whole.forEach((v, i) => {
              near(parts[i], v, `${c.name}, ${JSON.stringify(how)}, ${['loss', 'norm'].at(i) ?? `gradient ${i - 2}`}`);
            });
          }
          await using session = await compile(new Linear(INPUTS, CLASSES), { ...options, seed: 5 });
          const ends = [...cuts, rows].sort((a, b) => a - b),
            pieces = ends.map((end, i) => cut(batch, ends[i - 1] ?? 0, end));
          const all = await session.forward(batch),
            stream = async function* (): AsyncGenerator<Batch> {
              yield* pieces;
            };
          // Targets of a class with weight 0 do not count. Only with smoothed labels do they still have a loss: then a
          // batch may count nothing although its loss is not 0.
          const hasWeight = (t: number): boolean =>
            t !== IGNORED && (c.name !== 'smoothed labels' || classWeights[t] > 0);
          const found = await session.evaluate(stream()).catch((error: unknown) => error as Error);
          if (c.name.startsWith('ignored targets') && y.every((t) => t === IGNORED)) assert.ok(found instanceof Error);
          if (found instanceof Error) {
            assert.match(found.message, /counts nothing in/);
            assert.ok(Number(all['loss'].data[0]) === 0 || (c.of === 'classes' && !y.some(hasWeight)), c.name);
            return;
          }
          near(found.loss, Number(all['loss'].data[0]), `${c.name} in pieces that end at ${ends.join(', ')}`);
          assert.equal(found.samples, rows);
        }),
        { numRuns: { native: 2, wasm: 12, reference: 100 }[device] },
      );
    },
  );
}

const example = (y: readonly number[]): Batch => batchOf(CASES[0], [1, 0, 0, 0, 1, 0, 0, 0, 1, 1, 1, 1], y);

for (const device of ['wasm', 'reference', 'native'] as const) {
  test(
    `${device}: a target that is ignored in one of two micro-batches is left out of the mean of the whole batch`,
    { skip: device === 'native' && noCompiler },
    async () => {
      for (const accumulate of [1, 2]) {
        await using session = await compile(new Linear(3, 4, { bias: false }), {
          loss: CASES[0].loss,
          optimizer: sgd({ lr: 1 }),
          accumulate,
          device,
          threads: 1,
        });
        await session.restore(0, [{ name: 'weight', value: hostTensor('float32', [3, 4], new Float32Array(12)) }]);
        const { gradNorm } = await session.step(example([0, 1, 2, IGNORED]));
        assert.ok(Math.abs(gradNorm - 0.5) < 1e-6, `${gradNorm}`);
        const w = [...peek(() => session.states()[0].read()).data];
        w.forEach((v, i) =>
          assert.ok(Math.abs(v - (i % 5 === 0 ? 0.25 : -1 / 12)) < 1e-6, `accumulate ${accumulate}: ${w.join(' ')}`),
        );
      }
    },
  );
}

test('if no target is ignored, parts give the same bits as with a loss that does not report a count', async () => {
  // The same graph as crossEntropy with ignoreIndex, but without a reported count.
  const withoutCount: loss.Loss = (o, t) => {
    const ignored = equal(t, IGNORED),
      [rows] = traceOf(o).emit('crossEntropy', [o, where(ignored, scalar(t, 0), t)]);
    const kept = (x: Tensor): Tensor => where(ignored, scalar(o, 0), x),
      n = sum(kept(scalar(o, 1)));
    return div(sum(kept(rows)), where(equal(n, 0), scalar(n, 1), n));
  };
  const run = async (own: loss.Loss): Promise<unknown> => {
    const session = await compile(toyLM(), {
      loss: own,
      optimizer: adamW({ lr: 1e-2 }),
      accumulate: 3,
      device: 'wasm',
      threads: 1,
      seed: 2,
    });
    const losses: number[] = [];
    for (let i = 0; i < 3; i++) losses.push((await session.step(toyBatch(i, 6))).loss);
    const states = fingerprint(session);
    await session.close();
    return { losses, states };
  };
  assert.deepEqual(await run(CASES[0].loss), await run(withoutCount));
  assert.deepEqual(await run(loss.crossEntropy), await run((o, t) => mean(rowsOf(o, t))));
});

test('if all targets of a part, or of the batch, are ignored, it adds no gradient, and moments decay', async () => {
  const run = async (
    y: readonly number[],
    accumulate: number,
  ): Promise<{ loss: number; gradNorm: number; w: number[] }> => {
    const options = {
      loss: CASES[0].loss,
      optimizer: sgd({ lr: 1, momentum: 0.5 }),
      accumulate,
      device: 'wasm',
      threads: 1,
      seed: 1,
    } as const;
    await using session = await compile(new Linear(3, 4), options);
    await session.step(example([0, 1, 2, 3]));
    const { loss: value, gradNorm } = await session.step(example(y));
    const kept = session.states().filter(({ name }) => !name.startsWith('optim/sum/'));
    return { loss: value, gradNorm, w: kept.flatMap(({ read }) => [...peek(read).data]) };
  };
  const half = [0, 1, IGNORED, IGNORED],
    none = [IGNORED, IGNORED, IGNORED, IGNORED];
  for (const y of [half, none]) {
    const whole = await run(y, 1);
    for (const n of [2, 4]) {
      const parts = await run(y, n);
      near(parts.loss, whole.loss, 'loss');
      near(parts.gradNorm, whole.gradNorm, 'norm');
      whole.w.forEach((v, i) => {
        near(parts.w[i], v, `weight ${i}`);
      });
    }
  }
  const { loss: value, gradNorm } = await run(none, 2);
  assert.deepEqual([value, gradNorm], [0, 0]);
});

test('an evaluation weights batches by their number of targets, with sequences of any length', async () => {
  await using session = await compile(toyLM(), { loss: loss.crossEntropy, device: 'reference', seed: 3 });
  const of = (size: number, time: number): Batch => toyBatch(size, size, time),
    all = [of(2, 12), of(1, 3), of(5, 7)];
  let total = 0,
    count = 0;
  for (const b of all) {
    const { loss: value } = await session.forward(b);
    total += Number(value.data[0]) * b.y.data.length;
    count += b.y.data.length;
  }
  const found = await session.evaluate(
    (async function* () {
      yield* all;
    })(),
  );
  near(found.loss, total / count, 'loss');
  assert.deepEqual([found.samples, found.count], [8, count]);
  assert.deepEqual(Object.keys(await session.forward(all[0])).sort(), ['loss', 'output']);
});

test('if all counted targets are ignored, the term of a loss without a count remains', async () => {
  const both: loss.Loss = (o, t) => add(loss.crossEntropy(o, t, ignoring), mul(mean(abs(o)), 0.5));
  await using session = await compile(new Linear(3, 4), { loss: both, device: 'reference', seed: 2 });
  const none = example([IGNORED, IGNORED, IGNORED, IGNORED]),
    { loss: value } = await session.forward(none);
  const found = await session.evaluate([none]);
  near(found.loss, Number(value.data[0]), 'loss');
  assert.ok(found.loss > 0);
  assert.deepEqual([found.samples, found.count], [4, 4]);
});

test('if the loss of one batch is infinite or NaN, so is the loss of the evaluation', async () => {
  const model = { weight: new Parameter([1], { kind: 'constant', value: 1 }), forward: (x: Tensor): Tensor => x };
  await using session = await compile(model, { loss: loss.klDivergence, device: 'wasm', threads: 1 });
  const of = (...x: number[]): Batch => ({
    x: hostTensor('float32', [1, 2], x),
    y: hostTensor('float32', [1, 2], [0.5, 0.5]),
  });
  assert.equal((await session.evaluate([of(-Infinity, 0), of(-1, 0)])).loss, Infinity);
  assert.ok(Number.isNaN((await session.evaluate([of(NaN, 0), of(-1, 0)])).loss));
});

for (const device of ['wasm', 'native'] as const) {
  test(
    `${device}: parts of a float64 model are weighted in float64`,
    { skip: device === 'native' && noCompiler },
    async () => {
      const x = Array.from({ length: 36 }, (_, i) => Math.sin(1.3 * i)),
        y = [0, 1, IGNORED, 3, 2, 2, IGNORED, IGNORED, 0, IGNORED, 1, 3];
      const batch = { x: hostTensor('float64', [12, INPUTS], x), y: hostTensor('int32', [12], y) };
      const run = async (accumulate: number): Promise<number[]> => {
        const options = {
          loss: (o: Tensor, t: Tensor) =>
            loss.crossEntropy(o, t, { ...ignoring, classWeights: [0.1, 0.7, 1.3, 0.9], labelSmoothing: 0.1 }),
          optimizer: sgd({ lr: 1 }),
          accumulate,
          device,
          threads: 1,
          seed: 4,
        };
        await using session = await compile(setDtype(new Linear(INPUTS, CLASSES), 'float64'), options);
        const { loss: value, gradNorm } = await session.step(batch);
        return [
          value,
          gradNorm,
          ...['weight', 'bias'].flatMap((name) =>
            Array.from(peek(() => session.executor.peekState(name)).data, Number),
          ),
        ];
      };
      const whole = await run(1);
      for (const accumulate of [2, 3, 4])
        for (const [i, v] of (await run(accumulate)).entries())
          assert.ok(Math.abs(v - whole[i]) < 1e-14, `accumulate ${accumulate}: ${v}, not ${whole[i]}`);
    },
  );
}

test('a count that depends on parameters is refused, with their names, if a batch is computed in parts', async () => {
  const model = new Linear(3, 4),
    bySize: loss.Loss = (o, t) =>
      loss.meanOver(rowsOf(o, t), cast(less(scalar(use(o, model.weight), 0), sum(o, [1])), 'float32'));
  const options = { loss: bySize, optimizer: sgd({ lr: 0.1 }), device: 'reference' } as const;
  await using whole = await compile(model, options),
    parts = await compile(model, { ...options, accumulate: 2 });
  await whole.step(example([0, 1, 2, 3]));
  await assert.rejects(parts.step(example([0, 1, 2, 3])), {
    name: 'UserError',
    message: /the loss counts something that depends on (weight|bias).*x and y only/s,
  });
});

test('a mean that the loss does not depend on (a statistic) may count anything, also in parts', async () => {
  class WithStatistic {
    readonly linear = new Linear(3, 4);
    forward(x: Tensor): Tensor {
      const out = call(this.linear, x),
        some = cast(less(scalar(out, 0), out), 'float32');
      traceOf(x).addStat(this, 'positive', loss.meanOver(out, some));
      return out;
    }
  }
  const run = async (accumulate: number): Promise<number> => {
    const options = { loss: CASES[0].loss, optimizer: sgd({ lr: 0.1 }), device: 'wasm', seed: 3, accumulate } as const;
    await using session = await compile(new WithStatistic(), options);
    return (await session.step(example([0, 1, 2, IGNORED]))).loss;
  };
  near(await run(2), await run(1), 'loss');
});

test('counted and meanOver refuse tensors that are no mean, no count or no weights', async () => {
  const refused: [loss.Loss, RegExp][] = [
    [(o) => loss.counted(o, 1), /counted: a mean is one float number/],
    [(o) => loss.counted(mean(o), o), /counted: a count is one number/],
    [(o) => loss.meanOver(mean(o, [1]), o), /meanOver: weights float32\[4, 4\] do not fit float32\[4\]/],
  ];
  for (const [wrong, message] of refused) {
    await using session: Session = await compile(new Linear(3, 4), {
      loss: wrong,
      optimizer: sgd({ lr: 0.1 }),
      device: 'reference',
    });
    await assert.rejects(session.step(example([0, 1, 2, 3])), { message });
  }
});
