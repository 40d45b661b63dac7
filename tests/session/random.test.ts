// Random numbers: no counter is used twice, also if batches are computed in parts, modules are called several times, or
// the split changes between steps.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { threefry, unit24 } from '../../src/base/random.ts';
import { hostTensor, type Batch } from '../../src/base/tensor.ts';
import { add } from '../../src/graph/ops/elementwise/add.ts';
import { mul } from '../../src/graph/ops/elementwise/mul.ts';
import { ops } from '../../src/graph/ops/index.ts';
import { sum } from '../../src/graph/ops/reduce/sum.ts';
import type { Tensor } from '../../src/graph/tensor.ts';
import { Dropout } from '../../src/nn/dropout.ts';
import { random } from '../../src/nn/moe/router.ts';
import { crossEntropy, meanSquaredError } from '../../src/nn/loss.ts';
import { adamW } from '../../src/optim/adam.ts';
import { sgd } from '../../src/optim/sgd.ts';
import { compile } from '../../src/session/node.ts';
import type { Session } from '../../src/session/session.ts';
import { nameParameters } from '../../src/trace/module.ts';
import { Parameter } from '../../src/trace/parameter.ts';
import { call, trace, traceOf, use } from '../../src/trace/trace.ts';
import { noCompiler, toyBatch, toyLM } from '../support/toy.ts';

const WIDTH = 3;

/** Outputs its random numbers: one per element of x at its first use ("noise"), and at its second ("again"). */
class Noise {
  readonly w = new Parameter([1], { kind: 'constant', value: 0 });
  forward(x: Tensor): Tensor {
    const t = traceOf(x),
      own = random(x, this, 'noise'),
      again = random(x, this, 'noise');
    t.output('noise', own);
    t.output('again', again);
    return add(mul(x, use(x, this.w)), mul(sum(add(own, again)), 0));
  }
}

const rows = (n: number): Batch => {
  const tensor = hostTensor('float32', [n, WIDTH], new Float32Array(n * WIDTH).fill(1));
  return { x: tensor, y: tensor };
};

/** Collects the random numbers that each run of the session outputs. */
function recordNoise(session: Session): { readonly noise: number[]; readonly again: number[] }[] {
  const all: { noise: number[]; again: number[] }[] = [];
  const executor = session.executor as unknown as {
    run(program: unknown, inputs: unknown): Promise<Record<string, { data: Float32Array }>>;
  };
  const run = executor.run.bind(executor);
  executor.run = async (program, inputs) => {
    const out = await run(program, inputs);
    all.push({ noise: [...out['noise'].data], again: [...out['again'].data] });
    return out;
  };
  return all;
}

const schedule = fc.array(fc.record({ samples: fc.constantFrom(4, 6, 8, 12), split: fc.integer({ min: 1, max: 6 }) }), {
  minLength: 1,
  maxLength: 5,
});

test('with any split, every element of every step has its own numbers: those of the whole batch', async () => {
  await fc.assert(
    fc.asyncProperty(
      schedule,
      fc.constantFrom(1, 2),
      fc.constantFrom('wasm' as const, 'reference' as const),
      async (steps, accumulate, device) => {
        const optimizer = sgd({ lr: 0.1 }),
          options = { loss: meanSquaredError, optimizer, device, threads: 1, seed: 9 };
        await using session = await compile(new Noise(), { ...options, accumulate });
        await using whole = await compile(new Noise(), options);
        const parts = recordNoise(session),
          wholes = recordNoise(whole),
          seen = new Set<number>();
        let count = 0;
        for (const [i, { samples, split }] of steps.entries()) {
          session.batching.split = split;
          const from = parts.length;
          await session.step(rows(samples));
          await whole.step(rows(samples));
          for (const kind of ['noise', 'again'] as const) {
            const numbers = parts.slice(from).flatMap((p) => p[kind]);
            assert.deepEqual(numbers, wholes[i][kind], `step ${i}, ${kind}`);
            for (const n of numbers) seen.add(n);
            count += numbers.length;
          }
        }
        // Numbers have 24 bits, so that of a few hundred almost all differ. A repeated counter would repeat the numbers
        // of a whole part.
        assert.ok(seen.size > count - 3, `${seen.size} different numbers of ${count}`);
      },
    ),
    { numRuns: 20 },
  );
});

test('every use has its own key: if a module is used twice, and if the paths of two modules have equal hashes', () => {
  const model = { a: new Dropout(0.5), b: new Dropout(0.5) },
    keys: number[] = [];
  trace(ops, nameParameters(model), true, (t) => {
    for (let i = 0; i < 100; i++) keys.push(t.keyOf(model.a), t.keyOf(model.b), t.keyOf(model.a, 'other'));
  });
  assert.equal(new Set(keys).size, keys.length);
  const again: number[] = [];
  trace(ops, nameParameters(model), true, (t) => {
    for (let i = 0; i < 2; i++) again.push(t.keyOf(model.a), t.keyOf(model.b));
  });
  assert.deepEqual(again, [keys[0], keys[1], keys[3], keys[4]]);
});

test('the first use in a whole batch draws with key (seed, hash of the path) and counter (step, index)', async () => {
  await using session = await compile(new Noise(), {
    loss: meanSquaredError,
    optimizer: sgd({ lr: 0.1 }),
    device: 'reference',
    seed: 9,
  });
  const found = recordNoise(session);
  let key = 0;
  trace(ops, session.named, true, (t) => {
    key = t.keyOf(session.model, 'noise');
  });
  for (let step = 0; step < 3; step++) {
    await session.step(rows(4));
    const wanted = Array.from({ length: 4 * WIDTH }, (_, i) => unit24(threefry(9, key, step, i)[0]));
    assert.deepEqual(found[step].noise, wanted);
  }
});

test('a dropout that is used twice, as in a transformer block, drops other elements the second time', async () => {
  class Twice {
    readonly dropout = new Dropout(0.5);
    readonly w = new Parameter([1], { kind: 'constant', value: 1 });
    forward(x: Tensor): Tensor {
      const y = mul(x, use(x, this.w)),
        first = call(this.dropout, y),
        second = call(this.dropout, y);
      traceOf(x).output('noise', first);
      traceOf(x).output('again', second);
      return add(first, second);
    }
  }
  await using session = await compile(new Twice(), {
    loss: meanSquaredError,
    optimizer: sgd({ lr: 0.1 }),
    device: 'reference',
  });
  const found = recordNoise(session);
  await session.step(rows(20));
  const [{ noise, again }] = found,
    both = noise.filter((v, i) => v === 0 && again[i] === 0).length;
  assert.ok(both > 0 && both < 30, `${both} of 60 dropped by both`); // by chance 15; 30 if both masks were the same
});

for (const device of ['native', 'wasm', 'reference'] as const) {
  test(
    `${device}: with dropout, losses in micro-batches are close to those of the whole batch`,
    { skip: device === 'native' && noCompiler },
    async () => {
      const run = async (accumulate: number, split: number): Promise<number[]> => {
        const optimizer = adamW({ lr: 1e-3 }),
          model = toyLM({ dropout: 0.4 });
        await using session = await compile(model, {
          loss: crossEntropy,
          optimizer,
          device,
          threads: 1,
          accumulate,
          split,
        });
        const losses: number[] = [];
        for (let i = 0; i < 3; i++) losses.push((await session.step(toyBatch(i, 4))).loss);
        return losses;
      };
      const whole = await run(1, 1);
      for (const [accumulate, split] of [
        [2, 1],
        [1, 4],
        [2, 2],
      ]) {
        const losses = await run(accumulate, split);
        losses.forEach((loss, i) =>
          assert.ok(Math.abs(loss - whole[i]) < 1e-3, `${accumulate} x ${split}, step ${i}: ${loss}, not ${whole[i]}`),
        );
      }
    },
  );
}
