// A write to a public property of a model takes effect at the next step of every session of the model. Properties that
// cannot change throw when they are set.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { hostTensor, type Batch } from '../../src/base/tensor.ts';
import type { Tensor } from '../../src/graph/tensor.ts';
import { add } from '../../src/graph/ops/elementwise/add.ts';
import { mul } from '../../src/graph/ops/elementwise/mul.ts';
import { mean } from '../../src/graph/ops/reduce/sum.ts';
import { BatchNorm } from '../../src/nn/batchNorm.ts';
import { Dropout } from '../../src/nn/dropout.ts';
import { Linear } from '../../src/nn/linear.ts';
import { crossEntropy, meanSquaredError } from '../../src/nn/loss.ts';
import { MoE } from '../../src/nn/moe/moe.ts';
import { SigmoidRouter } from '../../src/nn/moe/routers.ts';
import { adamW } from '../../src/optim/adam.ts';
import { sgd } from '../../src/optim/sgd.ts';
import type { Optimizer } from '../../src/optim/optimizer.ts';
import { compile } from '../../src/session/node.ts';
import type { DeviceName } from '../../src/session/platform.ts';
import type { Session } from '../../src/session/session.ts';
import type { CompileOptions, Model } from '../../src/session/step.ts';
import { Parameter } from '../../src/trace/parameter.ts';
import { call, traceOf, use } from '../../src/trace/trace.ts';
import { blocks, open as openLM, steps, toPadded, type LM } from '../recompile/lm.ts';
import { peek } from '../support/delayed-device.ts';
import { fingerprint, noCompiler, toyBatch } from '../support/toy.ts';

const devices: readonly DeviceName[] = noCompiler ? ['wasm', 'reference'] : ['native', 'wasm', 'reference'];
const sines = (shape: readonly number[], phase: number) =>
  hostTensor(
    'float32',
    shape,
    Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => Math.sin(1.7 * i + phase)),
  );
const batch = (step: number, size = 4, width = 4): Batch => ({
  x: sines([size, width], step),
  y: sines([size, width], step + 0.5),
});
const open = (model: Model, options: Partial<CompileOptions> = {}): Promise<Session> =>
  compile(model, {
    loss: meanSquaredError,
    optimizer: sgd({ lr: 0.1 }),
    device: 'wasm',
    threads: 1,
    seed: 1,
    memory: 128e6,
    say: () => undefined,
    ...options,
  });
const values = (session: Session, name: string): number[] =>
  Array.from(peek(() => session.executor.peekState(name)).data, Number);

for (const device of devices) {
  test(`${device}: writes to Parameter.frozen take effect at the next step, for batches of every shape`, async () => {
    const model = new Linear(4, 4);
    await using session = await open(model, { device });
    const kept = async (size: number): Promise<boolean> => {
      const before = values(session, 'weight').join();
      await session.step(batch(1, size));
      return values(session, 'weight').join() === before;
    };
    await session.prepare(batch(1, 2));
    const seen: boolean[] = [];
    for (const frozen of [false, true, true, false, [true, false, true, false], false]) {
      model.weight.frozen = frozen;
      for (const size of [2, 1, 2]) seen.push(await kept(size));
    }
    assert.deepEqual(seen, [
      ...new Array<boolean>(3).fill(false),
      ...new Array<boolean>(6).fill(true),
      ...new Array<boolean>(9).fill(false),
    ]);
    model.weight.frozen = [true, false, true, false];
    const before = values(session, 'weight');
    await session.step(batch(3, 2));
    assert.deepEqual(
      values(session, 'weight').map((x, i) => x === before[i]),
      before.map((_, i) => Math.floor(i / 4) % 2 === 0),
    );
  });
}

class MixedModel {
  readonly a = new Linear(4, 4);
  readonly b = new Linear(4, 4, { bias: false });
  readonly moe = new MoE({
    dModel: 4,
    experts: 3,
    topK: 2,
    hidden: 4,
    router: new SigmoidRouter({ dModel: 4, experts: 3, biasRate: 0.1 }),
  });
  readonly norm = new BatchNorm(4);
  forward(x: Tensor): Tensor {
    return call(this.norm, add(call(this.moe, call(this.b, call(this.a, x))), x));
  }
}
const MODEL_WRITES: readonly ((m: MixedModel) => void)[] = [
  (m) => {
    m.a.weight.frozen = true;
  },
  (m) => {
    m.a.weight.frozen = [true, false, false, true];
  },
  (m) => {
    m.a.weight.frozen = false;
  },
  (m) => {
    m.b.weight.frozenAxis = 1;
    m.b.weight.frozen = [false, true, true, false];
  },
  (m) => {
    m.b.weight.frozen = true;
  },
  (m) => {
    m.b.weight.frozen = false;
    m.b.weight.frozenAxis = 0;
  },
  (m) => {
    m.moe.frozen = [true, false, true];
  },
  (m) => {
    m.moe.frozen = false;
  },
  (m) => {
    m.moe.gateFrozen = true;
  },
  (m) => {
    m.moe.gateFrozen = false;
  },
  (m) => {
    m.norm.runningMean.frozen = true;
  },
  (m) => {
    m.norm.runningMean.frozen = false;
    m.norm.gain.frozen = true;
  },
  (m) => {
    m.moe.topK = 1;
  },
  (m) => {
    m.moe.topK = 2;
  },
];

test(
  'random writes to `frozen` and other settings during training give the bits of sessions that were compiled with ' +
    'these settings',
  { timeout: 240_000 },
  async () => {
    const kinds: readonly Partial<CompileOptions>[] = [
      { optimizer: adamW({ lr: 0.05, weightDecay: 0.1 }) },
      { optimizer: adamW({ lr: 0.05, clip: 0.5 }), accumulate: 2 },
      { optimizer: sgd({ lr: 0.05, momentum: 0.9, clip: 0.3 }), split: 2 },
      { optimizer: sgd({ lr: 0.05, eager: true }) },
    ];
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...kinds),
        fc.array(fc.array(fc.nat(MODEL_WRITES.length - 1), { maxLength: 3 }), { minLength: 3, maxLength: 5 }),
        async (options, rounds) => {
          const model = new MixedModel(),
            written: number[] = [];
          await using session = await open(model, options);
          await session.step(batch(0));
          for (const [i, round] of rounds.entries()) {
            for (const s of round) {
              MODEL_WRITES[s](model);
              written.push(s);
            }
            const fresh = new MixedModel();
            for (const s of written) MODEL_WRITES[s](fresh);
            await using other = await open(fresh, options);
            await other.deserialize(await session.serialize());
            // The knobs in the checkpoint have the values that `fresh` has already.
            assert.equal(
              (await session.step(batch(i + 1))).loss,
              (await other.step(batch(i + 1))).loss,
              `${JSON.stringify(rounds)} step ${i + 2}`,
            );
            assert.deepEqual(fingerprint(session), fingerprint(other), `${JSON.stringify(rounds)} step ${i + 2}`);
          }
        },
      ),
      { numRuns: 12, seed: 11 },
    );
  },
);

test(
  'writes to `frozen` during a recompilation: the new plan waits until the model has the state it was made for; ' +
    'every bit is that of a session without rules',
  async () => {
    const ruled = await openLM(),
      plain = await openLM(),
      freezeFirstMoE = (to: boolean): void => {
        for (const { session } of [ruled, plain]) blocks(session.model as LM)[0].frozen = to;
      };
    ruled.session.recompile<LM>({ ...toPadded, measure: true });
    const freezeEmbedding = (to: boolean): void => {
      for (const { session } of [ruled, plain]) (session.model as LM).embedding.weight.frozen = to;
    };
    const got: number[] = [],
      want: number[] = [];
    for (let i = 0; ruled.events.length === 0 || i < 60; i++) {
      if (i % 3 === 0) freezeEmbedding(i % 2 === 0);
      if (i === 20) freezeFirstMoE(true);
      if (i === 40) freezeFirstMoE(false);
      got.push(...(await steps(ruled.session, 1)));
      want.push(...(await steps(plain.session, 1)));
      assert.ok(i < 3000, 'the recompilation must end');
    }
    assert.deepEqual(got, want);
    assert.deepEqual(fingerprint(ruled.session), fingerprint(plain.session));
    assert.deepEqual(
      ruled.events.map((e) => [e.rule, e.error]),
      [['padded', undefined]],
    );
    await ruled.session.close();
    await plain.session.close();
  },
);

class Net {
  readonly weight = new Parameter([4], { kind: 'constant', value: 1 });
  readonly dropout = new Dropout(0);
  scale = 1;
  terms = [1];
  table = new Map<string, number>([['shift', 0]]);
  mask = Float32Array.of(1, 1, 1, 1);
  nested = { deep: { power: 1 } };
  turn: (x: Tensor) => Tensor = (x) => x;
  calls = 0;
  #level = 0;
  get level(): number {
    return this.#level;
  }
  set level(level: number) {
    this.#level = level;
  }

  forward(x: Tensor): Tensor {
    this.calls++;
    let y = mul(mul(x, use(x, this.weight)), traceOf(x).constant({ dtype: 'float32', shape: [4] }, this.mask));
    for (const term of this.terms) y = mul(y, term);
    for (let i = 1; i < this.nested.deep.power; i++) y = mul(y, x);
    return call(this.dropout, this.turn(add(mul(y, this.scale), (this.table.get('shift') ?? 0) + this.level)));
  }
  /** The result that `forward` must give. */
  expected(x: ArrayLike<number>): number[] {
    const product = this.terms.reduce((a, b) => a * b, 1);
    return Array.from(x, (v, i) => {
      const y =
        v * this.mask[i % 4] * product * v ** (this.nested.deep.power - 1) * this.scale +
        (this.table.get('shift') ?? 0) +
        this.level;
      return this.turn === TWICE ? 2 * y : y;
    });
  }
}
const TWICE = (x: Tensor): Tensor => mul(x, 2);
const NET_WRITES: readonly ((net: Net, n: number) => void)[] = [
  (net, n) => {
    net.scale = n;
  },
  (net, n) => {
    net.terms.push(n % 3);
  },
  (net, n) => {
    net.terms[0] = n;
  },
  (net) => {
    net.terms.splice(1);
  },
  (net, n) => {
    net.table.set('shift', n);
  },
  (net, n) => {
    net.mask[n % 4] = n;
  },
  (net, n) => {
    net.mask = Float32Array.of(1, n, 1, 1);
  },
  (net, n) => {
    net.nested.deep.power = 1 + (n % 3);
  },
  (net, n) => {
    net.nested = { deep: { power: 1 + (n % 2) } };
  },
  (net, n) => {
    net.level = n;
  },
  (net) => {
    net.turn = TWICE;
  },
  (net) => {
    net.turn = (x) => x;
  },
];

test('a write to any public property of a model takes effect at the next call of each of its sessions', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(fc.nat(NET_WRITES.length - 1), fc.nat(5)), { minLength: 1, maxLength: 8 }),
      async (writes) => {
        const net = new Net(),
          x = sines([2, 4], 0);
        await using one = await open(net),
          two = await open(net);
        for (const [which, n] of [[0, 1] as [number, number], ...writes]) {
          NET_WRITES[which](net, n);
          for (const session of [one, two]) {
            const got = Array.from((await session.predict(x)).data, Number);
            net.expected(Array.from(x.data, Number)).forEach((want, i) => {
              assert.ok(
                Math.abs(got[i] - want) <= 1e-4 * (1 + Math.abs(want)),
                `${JSON.stringify(writes)}: ${got[i]} for ${want}`,
              );
            });
          }
        }
      },
    ),
    { numRuns: 15, seed: 5 },
  );
});

test('a write that leaves the graph the same is traced but not compiled; forward may write properties', async () => {
  const net = new Net() as Net & { history: number[] };
  net.history = [];
  await using session = await open(net);
  const { device } = session.executor as unknown as { device: { compile(kernels: unknown): Promise<void> } },
    real = device.compile.bind(device);
  let compiled = 0;
  device.compile = (kernels) => {
    compiled++;
    return real(kernels);
  };
  for (let i = 0; i < 3; i++) await session.step(batch(i));
  assert.deepEqual([compiled, net.calls], [1, 1], 'what `forward` writes while it is traced causes no new trace');
  for (let i = 0; i < 5; i++) {
    net.history.push(i);
    await session.step(batch(i));
  }
  assert.deepEqual([compiled, net.calls], [1, 6]);
  net.dropout.rate = 0.5;
  await session.step(batch(0));
  assert.deepEqual([compiled, net.calls], [2, 7]);
  net.dropout.rate = 0;
  net.history.length = 0;
  await session.step(batch(0));
  assert.deepEqual([compiled, net.calls], [2, 7], 'with the old values, the old programs are used again');
});

test('a write while a step runs takes effect at the next step, for all parts of the batch', async () => {
  const run = async (
    write: (model: Linear, step: number) => void,
    during: boolean,
  ): Promise<Record<string, string>> => {
    const model = new Linear(4, 4);
    await using session = await open(model, { optimizer: adamW({ lr: 0.1 }), accumulate: 2 });
    for (let i = 0; i < 6; i++) {
      if (!during) write(model, i);
      const running = session.step(batch(i));
      if (during) {
        await new Promise((resolve) => {
          setTimeout(resolve, i);
        });
        write(model, i + 1);
      }
      await running;
    }
    return fingerprint(session);
  };
  const write = (model: Linear, step: number): void => {
    model.weight.frozen = step === 2 || step === 3;
  };
  assert.deepEqual(await run(write, true), await run(write, false));
});

test(
  'a step uses the properties that the model had when the step was called, with and without a rule; later writes ' +
    'take effect at the next step',
  async () => {
    for (const ruled of [false, true]) {
      const model = new Linear(4, 4);
      await using session = await open(model);
      session.states();
      if (ruled) session.recompile({ name: 'idle', trigger: () => false, alter: () => undefined });
      for (const frozen of [true, false, true]) {
        const before = values(session, 'weight');
        model.weight.frozen = frozen;
        const running = session.step(batch(0));
        model.weight.frozen = !frozen;
        await running;
        assert.equal(
          values(session, 'weight').join() === before.join(),
          frozen,
          `frozen ${frozen}, ${ruled ? 'a rule' : 'no rule'}`,
        );
      }
    }
  },
);

test("a custom optimiser's properties are read again at every step; those of the library are frozen", async () => {
  const custom = { ...sgd({ lr: 1 }) } as { -readonly [K in keyof Optimizer]: Optimizer[K] },
    model = new Linear(4, 4);
  await using session = await open(model, { optimizer: custom });
  await session.prepare(batch(0));
  const distancePerGradNorm = async (): Promise<number> => {
    const before = values(session, 'weight'),
      { gradNorm } = await session.step(batch(0));
    return Math.hypot(...values(session, 'weight').map((x, i) => x - before[i])) / gradNorm;
  };
  assert.ok((await distancePerGradNorm()) > 0.5);
  custom.clip = 1e-3;
  assert.ok((await distancePerGradNorm()) < 0.1);
  const given = sgd({ lr: 1, clip: 1 }) as { clip: number; settings: Record<string, unknown> };
  assert.throws(() => {
    given.clip = 2;
  }, TypeError);
  assert.throws(() => {
    given.settings['lr'] = 2;
  }, TypeError);
});

test('properties that must not change throw when they are set', async () => {
  const model = new Linear(4, 4),
    options = {
      loss: meanSquaredError,
      optimizer: sgd({ lr: 0.1 }),
      device: 'wasm' as const,
      threads: 1,
      accumulate: 1,
    };
  await using session = await compile(model, options);
  const of = session as unknown as Record<string, unknown>,
    given = session.options as unknown as Record<string, unknown>,
    parameters = session.named.parameters as Map<string, Parameter>,
    p = model.weight as unknown as Record<string, unknown>;
  for (const key of ['model', 'named', 'options', 'batching', 'steps', 'seed', 'executor'])
    assert.throws(
      () => {
        of[key] = null;
      },
      TypeError,
      key,
    );
  for (const key of ['loss', 'optimizer', 'accumulate', 'seed', 'more'])
    assert.throws(
      () => {
        given[key] = 2;
      },
      TypeError,
      key,
    );
  for (const key of ['shape', 'init', 'dtype', 'trained', 'role', 'size'])
    assert.throws(
      () => {
        p[key] = 1;
      },
      TypeError,
      key,
    );
  assert.throws(() => {
    (model.weight.shape as number[])[0] = 9;
  }, TypeError);
  assert.throws(() => {
    (model.weight.init as { std?: number }).std = 9;
  }, TypeError);
  for (const wrong of ['yes', 1, null, [1], [true, 'no']])
    assert.throws(() => {
      p['frozen'] = wrong;
    }, /UserError: Parameter.frozen must be true, false, or a list/);
  for (const wrong of [-1, 2, 0.5, '0'])
    assert.throws(() => {
      p['frozenAxis'] = wrong;
    }, /UserError: Parameter.frozenAxis must be a dimension of \[4, 4\]/);
  assert.throws(() => parameters.set('more', model.weight), TypeError);
  assert.throws(() => {
    parameters.delete('weight');
  }, TypeError);
  assert.throws(() => {
    parameters.clear();
  }, TypeError);
  assert.throws(() => {
    (session.named as unknown as Record<string, unknown>)['parameters'] = new Map();
  }, TypeError);
  assert.throws(() => {
    (session.batching as unknown as Record<string, unknown>)['eager'] = true;
  }, TypeError);
  const moe = new MoE({ dModel: 4, experts: 2, topK: 1, hidden: 4, capacity: [1, 2] });
  for (const list of [moe.capacity, moe.frozen, moe.slots])
    assert.throws(() => {
      (list as unknown[])[0] = 1;
    }, TypeError);
  options.accumulate = 4; // the caller's object: the session has copied it
  assert.equal(session.options.accumulate, 1);
  await session.step(batch(0));
  model.weight.frozen = [true];
  await assert.rejects(
    session.step(batch(0)),
    /UserError: weight\.frozen lists 1 parts, but dimension 0 \(frozenAxis\) of \[4, 4\] has 4/,
  );
  model.weight.frozen = false;
  const bias = model.bias as Parameter;
  (model as unknown as Record<string, unknown>)['bias'] = new Parameter([4], { kind: 'constant', value: 0 });
  for (const call of [() => session.step(batch(0)), () => session.predict(batch(0).x), () => session.prepare(batch(0))])
    await assert.rejects(
      call,
      /UserError: the model has changed since it was compiled: parameter bias was added, removed or replaced/,
    );
  (model as unknown as Record<string, unknown>)['bias'] = bias;
  await session.step(batch(0));
  assert.equal(session.steps, 2);
});

test('predictions follow the knobs set by rules of that session only, and writes of the user', async () => {
  const opened = await openLM(),
    { session } = opened,
    other = await compile(session.model, { loss: crossEntropy, device: 'wasm', threads: 1, seed: 3 }),
    x = toyBatch(0).x;
  await steps(session, 1);
  const plain = (await other.predict(x)).data.join();
  session.recompile<LM>({
    name: 'one expert',
    budget: 1,
    trigger: () => true,
    alter: (m) => {
      for (const moe of blocks(m)) moe.topK = 1;
    },
  });
  await steps(session, 40);
  assert.equal((await other.predict(x)).data.join(), plain);
  for (const moe of blocks(session.model as LM)) moe.topK = 3;
  assert.notEqual((await other.predict(x)).data.join(), plain);
  await session.close();
  await other.close();
});

test('changes to variables that a loss closure reads are not noticed', async () => {
  const loss = { times: 1, of: (output: Tensor, target: Tensor): Tensor => mul(mean(mul(output, target)), loss.times) };
  await using session = await open(new Linear(4, 4), { loss: loss.of });
  const one = Number((await session.forward(batch(0))).loss.data[0]);
  loss.times = 2;
  assert.equal(Number((await session.forward(batch(0))).loss.data[0]), one, 'the guide documents this');
});
