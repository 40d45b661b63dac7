// The role of a parameter, not its shape or name, decides whether it decays and which groups match it. This is the same
// for every optimiser. Also: clipping, options and checkpoints of optimisers.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { UserError } from '../../src/base/errors.ts';
import { hostTensor, type Batch } from '../../src/base/tensor.ts';
import { add } from '../../src/graph/ops/elementwise/add.ts';
import { matmul } from '../../src/graph/ops/matmul/matmul.ts';
import { mul } from '../../src/graph/ops/elementwise/mul.ts';
import { slice } from '../../src/graph/ops/shape/slice.ts';
import { sum } from '../../src/graph/ops/reduce/sum.ts';
import type { Tensor } from '../../src/graph/tensor.ts';
import * as nn from '../../src/nn/index.ts';
import { meanSquaredError } from '../../src/nn/loss.ts';
import * as optim from '../../src/optim/index.ts';
import { compile } from '../../src/session/node.ts';
import type { Session } from '../../src/session/session.ts';
import type { CompileOptions } from '../../src/session/step.ts';
import { nameParameters } from '../../src/trace/module.ts';
import { Parameter, ROLES, type Role } from '../../src/trace/parameter.ts';
import { call, use } from '../../src/trace/trace.ts';
import { toyLM } from '../support/toy.ts';

const roles = (model: object): Record<string, string> =>
  Object.fromEntries([...nameParameters(model).parameters].map(([name, p]) => [name, p.role]));
const valuesOf = (session: Session): Record<string, number[]> =>
  Object.fromEntries(session.states().map(({ name, read }) => [name, Array.from(read().data)]));

test('every layer gives its parameters roles', () => {
  assert.deepEqual(roles(new nn.Linear(2, 2)), { weight: 'weight', bias: 'bias' });
  assert.deepEqual(roles(new nn.Linear(2, 2, { role: 'head' })), { weight: 'head', bias: 'bias' });
  assert.deepEqual(roles(new nn.Conv2d(1, 2, 3)), { weight: 'weight', bias: 'bias' });
  assert.deepEqual(roles(new nn.Embedding(3, 2)), { weight: 'embedding' });
  assert.deepEqual(
    [roles(new nn.LayerNorm(2)), roles(new nn.RMSNorm(2))],
    [{ gain: 'gain', bias: 'bias' }, { gain: 'gain' }],
  );
  assert.deepEqual(roles(new nn.BatchNorm(2)), {
    gain: 'gain',
    bias: 'bias',
    runningMean: 'running',
    runningVariance: 'running',
  });
  const moe = new nn.MoE({
    dModel: 2,
    experts: 2,
    topK: 1,
    hidden: 3,
    bias: true,
    shared: 2,
    router: new nn.NoisyTopKRouter({ dModel: 2, experts: 2 }),
  });
  assert.deepEqual(roles(moe), {
    'router.weight': 'router',
    'router.noise': 'router',
    'experts.w1': 'weight',
    'experts.w2': 'weight',
    'experts.b1': 'bias',
    'experts.b2': 'bias',
    'shared.bank.w1': 'weight',
    'shared.bank.w2': 'weight',
  });
  assert.deepEqual(roles(new nn.SigmoidRouter({ dModel: 2, experts: 2 })), { weight: 'router', bias: 'running' });
  const lm = roles(toyLM());
  assert.deepEqual(
    [lm['embedding.weight'], lm['head.weight'], lm['norm.gain'], lm['blocks.0.attention.qkv.weight']],
    ['embedding', 'head', 'gain', 'weight'],
  );
  assert.equal(roles(new nn.SmallCNN({ image: [4, 4, 1], outputs: 2 }))['head.layers.1.weight'], 'head');
});

test("a user's parameter has the role weight unless another one is given", () => {
  const of = (options: object): Role => new Parameter([1], { kind: 'constant', value: 1 }, options).role;
  assert.deepEqual([of({}), of({ role: 'gain' }), of({ trained: false })], ['weight', 'gain', 'running']);
  assert.throws(() => of({ role: 'scale' }), {
    name: 'UserError',
    message: /no role scale.*one of weight, bias, gain, embedding, router, head/s,
  });
  assert.throws(() => of({ role: 'running' }), /a parameter that is trained cannot have the role 'running'/);
});

/** The output does not depend on any parameter: gradients are 0, so that an update changes values only by decay. */
class Idle {
  readonly all: Record<string, Parameter>;
  constructor(
    parameters: readonly { readonly name: string; readonly shape: readonly number[]; readonly role: Role }[],
  ) {
    this.all = Object.fromEntries(
      parameters.map(({ name, shape, role }) => [name, new Parameter(shape, { kind: 'constant', value: 2 }, { role })]),
    );
  }

  forward(x: Tensor): Tensor {
    return Object.values(this.all).reduce((y, p) => add(y, mul(sum(use(x, p)), 0)), x);
  }
}

const zeros: Batch = { x: hostTensor('float32', [2, 1], [1, 2]), y: hostTensor('float32', [2, 1], [1, 2]) };
const trainedRole = fc.constantFrom(...ROLES.filter((role) => role !== 'running'));
const parameters = fc.uniqueArray(
  fc.record({
    name: fc.constantFrom('weight', 'bias', 'gain', 'norm', 'w', 'embedding'),
    shape: fc.array(fc.integer({ min: 1, max: 3 }), { maxLength: 3 }),
    role: trainedRole,
  }),
  { selector: (p) => p.name, minLength: 1 },
);

test('weights, embeddings, routers, heads decay, biases and gains do not, with any shape and name', async () => {
  const makers = fc.constantFrom(
    { name: 'sgd', make: () => optim.sgd({ lr: 0.5, weightDecay: 0.25 }) },
    { name: 'momentum', make: () => optim.sgd({ lr: 0.5, weightDecay: 0.25, momentum: 0.9 }) },
    { name: 'adamW', make: () => optim.adamW({ lr: 0.5, weightDecay: 0.25 }) },
    { name: 'lion', make: () => optim.lion({ lr: 0.5, weightDecay: 0.25 }) },
    { name: 'eager', make: () => optim.adamW({ lr: 0.5, weightDecay: 0.25, eager: true }) },
  );
  await fc.assert(
    fc.asyncProperty(
      parameters,
      makers,
      fc.constantFrom('wasm' as const, 'reference' as const),
      async (all, { make }, device) => {
        await using session = await compile(new Idle(all), {
          loss: meanSquaredError,
          optimizer: make(),
          device,
          threads: 1,
        });
        await session.step(zeros);
        const values = valuesOf(session);
        for (const { name, role } of all) {
          const wanted = role === 'bias' || role === 'gain' ? 2 : 2 * (1 - 0.5 * 0.25);
          for (const v of values[`all.${name}`]) assert.equal(v, wanted, `${name}: ${role}`);
        }
      },
    ),
    { numRuns: 40 },
  );
});

test('gains and biases of a model do not decay with sgd', async () => {
  class M {
    readonly n = new nn.RMSNorm(2);
    readonly l = new nn.Linear(2, 2);
    forward(x: Tensor): Tensor {
      return call(this.l, call(this.n, x));
    }
  }
  for (const make of [optim.sgd, optim.adamW]) {
    await using session = await compile(new M(), {
      loss: meanSquaredError,
      optimizer: make({ lr: 0.1, weightDecay: 1 }),
    });
    await session.restore(0, [
      { name: 'l.weight', value: hostTensor('float32', [2, 2], [0, 0, 0, 0]) },
      { name: 'l.bias', value: hostTensor('float32', [2], [1, 1]) },
    ]);
    await session.step({ x: hostTensor('float32', [1, 2], [1, 1]), y: hostTensor('float32', [1, 2], [1, 1]) });
    const values = valuesOf(session);
    assert.deepEqual(
      [values['l.bias'], values['n.gain']],
      [
        [1, 1],
        [1, 1],
      ],
    );
  }
});

/** x W + x W: one parameter W under two names. */
class Tied {
  readonly a = new Parameter([2, 2], { kind: 'constant', value: 0 });
  readonly b = this.a;
  forward(x: Tensor): Tensor {
    return add(matmul(x, use(x, this.a)), matmul(x, use(x, this.b)));
  }
}

test('a tied parameter counts once in the gradient norm and decays once', async () => {
  // The loss is sum(output) / 2: each use of W adds 1 to the gradient of each of its 4 elements.
  for (const accumulate of [1, 2]) {
    await using session = await compile(new Tied(), {
      loss: (o) => mul(sum(o), accumulate / 2),
      optimizer: optim.sgd({ lr: 1, weightDecay: 0.5, clip: 1 }),
      accumulate,
    });
    await session.restore(0, [{ name: 'a', value: hostTensor('float32', [2, 2], [4, 4, 4, 4]) }]);
    const { gradNorm } = await session.step({
      x: hostTensor('float32', [2, 2], [1, 1, 1, 1]),
      y: hostTensor('float32', [2, 1], [0, 0]),
    });
    assert.equal(gradNorm, 4);
    for (const v of valuesOf(session)['a']) assert.ok(Math.abs(v - (4 - 0.5 - 2)) < 1e-5, `${v}`);
  }
});

const isUserErrorWith = (e: unknown, ...words: string[]): boolean =>
  e instanceof UserError && words.every((word) => e.message.includes(word));

test('options that an optimiser does not have, or that have no effect, are refused by name', () => {
  const make: Record<string, (options: never) => unknown> = {
    adam: optim.adam,
    adamW: optim.adamW,
    sgd: optim.sgd,
    lion: optim.lion,
  };
  const refused: [string, object, ...string[]][] = [
    ['adam', { weightDecay: 0.1 }, 'weightDecay'],
    ['adam', { weightDecay: 0 }, 'weightDecay'],
    ['adam', { momentum: 0.9 }, 'momentum'],
    ['adamW', { nesterov: true }, 'nesterov'],
    ['sgd', { betas: [0.9, 0.99] }, 'betas'],
    ['sgd', { eps: 1e-8 }, 'eps'],
    ['lion', { eps: 1e-8 }, 'eps'],
    ['lion', { betas: [0.9, 1] }, 'betas'],
    ['adamW', { weight_decay: 0.1 }, 'weight_decay', 'weightDecay'],
    ['adamW', { learningRate: 1 }, 'learningRate'],
    ['sgd', { nesterov: true }, 'nesterov', 'momentum'],
    ['sgd', { nesterov: true, momentum: 0 }, 'nesterov'],
    ['sgd', { nesterov: 1, momentum: 0.9 }, 'nesterov must be true or false'],
    ['sgd', { clip: NaN }, 'clip', 'NaN'],
    ['adam', { clip: 0 }, 'clip'],
    ['adamW', { clip: 1e-60 }, 'clip'],
    ['adamW', { clip: Infinity }, 'clip'],
    ['adamW', { eps: 1e-60 }, 'eps'],
    ['adamW', { betas: [0.9] }, 'betas'],
    ['adamW', { betas: 0.9 }, 'betas'],
    ['sgd', { lr: 1e39 }, 'lr'],
    ['adamW', { eager: true, clip: 1 }, 'eager', 'clip'],
    ['adamW', { eager: 'yes' }, 'eager'],
  ];
  for (const [name, options, ...words] of refused)
    assert.throws(
      () => make[name]({ lr: 0.1, ...options } as never),
      (e) => isUserErrorWith(e, `optim.${name}`, ...words),
      `${name} ${JSON.stringify(options)}`,
    );
  for (const name of Object.keys(make))
    assert.throws(
      () => make[name](undefined as never),
      (e) => isUserErrorWith(e, `optim.${name}`),
    );
  assert.doesNotThrow(() => optim.sgd({ lr: 0.1, momentum: undefined, nesterov: false }));
});

class Two {
  readonly a = new nn.Linear(1, 1);
  readonly b = { gain: new Parameter([1], { kind: 'constant', value: 1 }, { role: 'gain' }) };
  forward(x: Tensor): Tensor {
    return mul(call(this.a, x), use(x, this.b.gain));
  }
}

const open = (optimizer: optim.Optimizer, more: Partial<CompileOptions> = {}): Promise<Session> =>
  compile(new Two(), { loss: meanSquaredError, optimizer, seed: 1, ...more });
const line: Batch = { x: hostTensor('float32', [2, 1], [1, 2]), y: hostTensor('float32', [2, 1], [5, 7]) };

test('groups set learning rate factors, decay and freezing, as a function or as a list of rules', async () => {
  for (const make of [
    (groups?: optim.Groups) => optim.adamW({ lr: 0.1, weightDecay: 0.5, ...(groups && { groups }) }),
    (groups?: optim.Groups) => optim.sgd({ lr: 0.1, weightDecay: 0.5, momentum: 0.5, ...(groups && { groups }) }),
  ]) {
    const run = async (groups?: optim.Groups): Promise<Record<string, number>> => {
      await using session = await open(make(groups), { device: 'reference' });
      const before = valuesOf(session);
      await session.step(line);
      return Object.fromEntries(
        Object.entries(valuesOf(session))
          .filter(([name]) => name in before)
          .map(([name, [v]]) => [name, v - before[name][0]]),
      );
    };
    const plain = await run(),
      still = await run((path) => (path === 'a.weight' ? { frozen: true } : undefined)),
      slow = await run((_, role) => (role === 'weight' ? { lr: 0.5 } : {}));
    assert.equal(still['a.weight'], 0);
    assert.ok(Math.abs(slow['a.weight'] - plain['a.weight'] / 2) < 1e-9);
    assert.deepEqual(
      [still['a.bias'], slow['a.bias'], slow['b.gain']],
      [plain['a.bias'], plain['a.bias'], plain['b.gain']],
    );
    // Decay takes off lr * decay * value: 0.1 * 0.5 * w of a weight.
    const off = await run((path) => (path === 'a.weight' ? { decay: false } : null)),
      own = await run([{ match: 'a.weight', decay: 1 }]),
      gain = await run([{ role: ['gain', 'bias'], decay: true }]);
    const taken = off['a.weight'] - plain['a.weight'];
    assert.ok(Math.abs(own['a.weight'] - (off['a.weight'] - 2 * taken)) < 1e-9);
    assert.ok(Math.abs(gain['b.gain'] - (plain['b.gain'] - 0.1 * 0.5)) < 1e-9, `${gain['b.gain']} ${plain['b.gain']}`);
    assert.deepEqual([gain['a.weight'], off['b.gain']], [plain['a.weight'], plain['b.gain']]);
    // Later rules override earlier ones, field by field. A learning rate factor also scales decoupled decay, as in
    // parameter groups of PyTorch.
    const both = await run([
      { match: 'a', lr: 0.5, decay: 0 },
      { match: '*.weight', lr: 0.25 },
    ]);
    assert.ok(Math.abs(both['a.weight'] - off['a.weight'] / 4) < 1e-9);
    assert.ok(Math.abs(both['a.bias'] - plain['a.bias'] / 2) < 1e-9);
  }
});

test(
  'a groups function, also one of a custom optimiser, is called once for each parameter, when a session is ' +
    'compiled',
  async () => {
    const asked: string[] = [];
    let factor = 0.5;
    const groups: optim.Groups = (path) => {
      asked.push(path);
      return { lr: factor };
    };
    const own: optim.Optimizer = { ...optim.sgd({ lr: 0.1 }), name: 'own', groups },
      x = hostTensor('float32', [4, 2], [1, 0, 0, 1, 1, 1, 2, 1]);
    for (const optimizer of [optim.sgd({ lr: 0.1, groups }), own]) {
      asked.length = 0;
      factor = 0.5;
      const of = (o: optim.Optimizer): Promise<Session> =>
        compile(new nn.Linear(2, 2), { loss: meanSquaredError, optimizer: o, device: 'wasm', threads: 1, seed: 4 });
      const session = await of(optimizer),
        half = await of(optim.sgd({ lr: 0.05 }));
      factor = 100; // too late for this session
      for (let i = 0; i < 3; i++) for (const s of [session, half]) await s.step({ x, y: x });
      assert.deepEqual(asked, ['weight', 'bias']);
      const [moved, expected] = [valuesOf(session), valuesOf(half)];
      for (const [name, values] of Object.entries(expected))
        values.forEach((v, i) => {
          assert.ok(Math.abs(moved[name][i] - v) < 1e-6, `${optimizer.name} ${name}`);
        });
      await session.close();
      await half.close();
    }
  },
);

test('invalid groups are refused by the optimiser, groups that match no parameter by compile', async () => {
  const made: [unknown, ...string[]][] = [
    ['a', 'groups'],
    [[1], 'groups[0]'],
    [[{ role: 'scale', lr: 1 }], 'no role', 'scale'],
    [[{ lr: -1 }], 'lr', '-1'],
    [[{ lr: NaN }], 'lr', 'NaN'],
    [[{ decay: -1 }], 'decay'],
    [[{ learningRate: 2 }], 'learningRate'],
    [[{ match: 'a' }], 'groups[0] sets nothing'],
    [[{ match: '', lr: 1 }], 'match'],
    [[{ frozen: 'yes' }], 'frozen'],
  ];
  for (const [groups, ...words] of made)
    assert.throws(
      () => optim.adamW({ lr: 1, groups: groups as never }),
      (e) => isUserErrorWith(e, 'optim.adamW', ...words),
      JSON.stringify(groups),
    );
  const known: [optim.Optimizer, ...string[]][] = [
    [
      optim.adamW({ lr: 1, groups: [{ match: 'c', lr: 2 }] }),
      'groups[0]',
      '"c"',
      'fits no trained parameter',
      'a.weight (weight)',
    ],
    [optim.adamW({ lr: 1, groups: [{ role: 'router', lr: 2 }] }), 'fits no trained parameter'],
    [optim.sgd({ lr: 1, groups: () => undefined }), 'gives no settings for any parameter'],
    [optim.sgd({ lr: 1, groups: () => ({ lr: Infinity }) }), 'groups("a.weight", "weight")', 'Infinity'],
    [optim.sgd({ lr: 1, groups: () => ({ wd: 1 }) as never }), 'unknown setting wd'],
    [optim.sgd({ lr: 1, groups: () => 2 as never }), 'must give an object'],
    [optim.adam({ lr: 1, groups: () => ({ decay: 0.1 }) }), 'adam has no weight decay'],
    [optim.sgd({ lr: 1, groups: () => ({ decay: true }) }), 'weightDecay is 0'],
  ];
  for (const [optimizer, ...words] of known)
    await assert.rejects(open(optimizer), (e) => isUserErrorWith(e, ...words), words.join());
  await using frozen = await open(optim.sgd({ lr: 1, groups: () => ({ frozen: true }) }));
  await assert.rejects(frozen.step(line), /there is nothing to train/);
});

test('a checkpoint stores settings of groups; resuming with others gives a message with their names', async () => {
  const messages: string[] = [],
    say = (text: string): void => {
      messages.push(text);
    },
    groups: optim.Groups = [{ match: 'a', lr: 0.5 }];
  await using first = await open(optim.sgd({ lr: 0.1, groups }), { say });
  await first.step(line);
  const bytes = await first.serialize();
  await using same = await open(
    optim.sgd({ lr: 0.1, groups: (path) => (path.startsWith('a.') ? { lr: 0.5 } : undefined) }),
    { say },
  );
  await same.deserialize(bytes);
  assert.deepEqual(messages, []);
  await using other = await open(
    optim.sgd({
      lr: 0.1,
      groups: [
        { match: 'a.bias', frozen: true },
        { match: 'a.weight', lr: 0.5 },
      ],
    }),
    { say },
  );
  await other.deserialize(bytes);
  assert.equal(messages.length, 1);
  assert.match(
    messages[0],
    /the groups of the optimizer differ from the checkpoint's for a\.bias: .*"frozen":true.*, not .*"lr":0\.5/,
  );
});

/** The update of one element by each optimiser, written out in float64. */
const EXPECTED_UPDATES: Record<string, (rate: number, decay: number) => (p: number, g: number) => number> = {
  sgd: (rate, decay) => {
    let v = 0;
    return (p, g) => {
      v = 0.8 * v + g + decay * p;
      return p - rate * v;
    };
  },
  nesterov: (rate, decay) => {
    let v = 0;
    return (p, g) => {
      const all = g + decay * p;
      v = 0.8 * v + all;
      return p - rate * (all + 0.8 * v);
    };
  },
  adamW: (rate, decay) => {
    let m = 0,
      v = 0,
      t = 0;
    return (p, g) => {
      t++;
      m = 0.9 * m + 0.1 * g;
      v = 0.999 * v + 0.001 * g * g;
      return p - rate * decay * p - (rate * (m / (1 - 0.9 ** t))) / (Math.sqrt(v / (1 - 0.999 ** t)) + 1e-8);
    };
  },
  lion: (rate, decay) => {
    let m = 0;
    return (p, g) => {
      const direction = Math.sign(0.9 * m + (1 - 0.9) * g);
      m = 0.99 * m + (1 - 0.99) * g;
      return p - rate * (direction + decay * p);
    };
  },
};
const MAKE: Record<string, (groups: optim.Groups) => optim.Optimizer> = {
  sgd: (groups) => optim.sgd({ lr: 0.1, momentum: 0.8, weightDecay: 0.2, groups }),
  nesterov: (groups) => optim.sgd({ lr: 0.1, momentum: 0.8, nesterov: true, weightDecay: 0.2, groups }),
  adamW: (groups) => optim.adamW({ lr: 0.1, weightDecay: 0.2, groups }),
  lion: (groups) => optim.lion({ lr: 0.1, weightDecay: 0.2, groups }),
};

test('with any roles and groups, parameters move as the optimiser written out in float64 moves them', async () => {
  const groupSettings = fc.record({
    lr: fc.constantFrom(undefined, 0, 0.5, 2),
    decay: fc.constantFrom(undefined, true, false, 0, 0.7),
    frozen: fc.constantFrom(undefined, false, true),
  });
  const drawn = fc.record({
    kind: fc.constantFrom(...Object.keys(MAKE)),
    roles: fc.array(trainedRole, { minLength: 3, maxLength: 3 }),
    settings: fc.array(groupSettings, { minLength: 3, maxLength: 3 }),
    device: fc.constantFrom('wasm' as const, 'reference' as const),
  });
  /** The gradient to parameter i is a column of x. */
  class Columns {
    readonly all: readonly Parameter[];
    constructor(all: readonly Role[]) {
      this.all = all.map((role) => new Parameter([1], { kind: 'constant', value: 1 }, { role }));
    }
    forward(x: Tensor): Tensor {
      return this.all.map((p, i) => mul(slice(x, 1, i, i + 1), use(x, p))).reduce((a, b) => add(a, b));
    }
  }
  await fc.assert(
    fc.asyncProperty(drawn, async (c) => {
      const groups: optim.Groups = (path) => c.settings[Number(path.slice('all.'.length))];
      const noEffect = c.settings.every(
        ({ lr, decay, frozen }) => (lr ?? 1) === 1 && decay === undefined && frozen !== true,
      );
      const allFrozen = c.settings.every(({ frozen }) => frozen === true),
        options = { loss: (o: Tensor) => sum(o), device: c.device, threads: 1 } as const;
      if (noEffect || allFrozen) return; // such groups are refused
      await using session = await compile(new Columns(c.roles), { ...options, optimizer: MAKE[c.kind](groups) });
      const written = c.settings.map(({ lr = 1, decay, frozen }, i) => {
        const own = decay ?? !['bias', 'gain'].includes(c.roles[i]);
        const step = EXPECTED_UPDATES[c.kind](0.1 * lr, typeof own === 'number' ? own : own ? 0.2 : 0);
        return frozen === true ? (p: number): number => p : step;
      });
      let values = [1, 1, 1];
      for (let n = 0; n < 4; n++) {
        const g = [0, 1, 2].map((i) => Math.sin(7 * n + 3 * i + 1));
        values = values.map((p, i) => written[i](p, g[i]));
        await session.step({ x: hostTensor('float32', [1, 3], g), y: hostTensor('float32', [1, 1], [0]) });
        values.forEach((v, i) => {
          const [got] = session.executor.peekState(`all.${i}`).data;
          assert.ok(Math.abs(Number(got) - v) < 1e-5, `step ${n}, ${c.roles[i]}: ${got}, not ${v}`);
        });
      }
    }),
    { numRuns: 40 },
  );
});
