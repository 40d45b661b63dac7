// Choices that a layer remembers by sample id: on every device, what watched and cached layers compute, remember and
// report; and that a run continues exactly after a stop.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Batch } from '../../../src/base/tensor.ts';
import { hostTensor } from '../../../src/base/tensor.ts';
import { UserError } from '../../../src/base/errors.ts';
import { add } from '../../../src/graph/ops/elementwise/add.ts';
import { mul } from '../../../src/graph/ops/elementwise/mul.ts';
import type { Tensor } from '../../../src/graph/tensor.ts';
import { ops } from '../../../src/graph/ops/index.ts';
import { differentiate } from '../../../src/grad/differentiate.ts';
import { Linear } from '../../../src/nn/linear.ts';
import { meanSquaredError } from '../../../src/nn/loss.ts';
import { ExpertChoiceRouter, HashRouter } from '../../../src/nn/moe/fixed-routers.ts';
import type { MoE } from '../../../src/nn/moe/moe.ts';
import { type MoEOptions } from '../../../src/nn/moe/moe.ts';
import type { Router } from '../../../src/nn/moe/router.ts';
import { changeSlots } from '../../../src/nn/moe/slots.ts';
import { NoisyTopKRouter, SigmoidRouter, SinkhornRouter, TopKRouter } from '../../../src/nn/moe/routers.ts';
import { sgd } from '../../../src/optim/sgd.ts';
import { compileGraph, traceGraph, trainingGraph } from '../../../src/pipeline.ts';
import { verifyProgram } from '../../../src/plan/verify.ts';
import { evaluate } from '../../../src/run/reference.ts';
import type { CompileOptions } from '../../../src/session/step.ts';
import { compile } from '../../../src/session/node.ts';
import type { Session } from '../../../src/session/session.ts';
import { nameParameters } from '../../../src/trace/module.ts';
import { initialValue } from '../../../src/trace/parameter.ts';
import { devices, normals } from './layer.ts';
import { peek } from '../../support/delayed-device.ts';
import { anyMoE } from '../../support/moe.ts';

const SAMPLES = 24,
  TOKENS = 3,
  WIDTH = 8,
  SIZE = 8,
  EXPERTS = 6;
const X = normals('x', SAMPLES * TOKENS * WIDTH),
  Y = normals('y', SAMPLES * TOKENS * WIDTH);

class Model {
  readonly moe: MoE;
  constructor(options: Partial<MoEOptions> = {}) {
    this.moe = anyMoE({
      dModel: WIDTH,
      experts: EXPERTS,
      topK: 2,
      hidden: 16,
      remember: SAMPLES,
      audit: 4,
      ...options,
    });
  }
  forward(x: Tensor): Tensor {
    return this.moe.forward(x);
  }
}

const rowsOf = (data: Float32Array, ids: ArrayLike<number>): Float32Array =>
  Float32Array.from(
    { length: ids.length * TOKENS * WIDTH },
    (_, n) => data[ids[Math.floor(n / (TOKENS * WIDTH))] * TOKENS * WIDTH + (n % (TOKENS * WIDTH))],
  );
/** A batch of these samples with these ids. */
function batchOf(samples: ArrayLike<number>, ids: ArrayLike<number> | null = samples): Batch {
  const shape = [samples.length, TOKENS, WIDTH];
  return {
    x: hostTensor('float32', shape, rowsOf(X, samples)),
    y: hostTensor('float32', shape, rowsOf(Y, samples)),
    ...(ids && { ids: Int32Array.from(ids) }),
  };
}
/** The batch of this step. The order of samples changes from epoch to epoch. */
const batchAt = (step: number): Batch => {
  const per = SAMPLES / SIZE,
    epoch = Math.floor(step / per),
    turn = [1, 5, 7, 11, 13][epoch % 5];
  return batchOf(Array.from({ length: SIZE }, (_, j) => (((step % per) * SIZE + j) * turn + epoch) % SAMPLES));
};

const open = (
  model: Model,
  { lr = 0.5, ...options }: Partial<CompileOptions> & { lr?: number } = {},
): Promise<Session> =>
  compile(model, {
    loss: meanSquaredError,
    optimizer: sgd({ lr }),
    device: 'wasm',
    threads: 2,
    memory: 256e6,
    say: () => undefined,
    ...options,
  });
interface Reported {
  readonly losses: number[];
  readonly agreement: (readonly [agreed: number, compared: number])[];
}
async function run(session: Session, steps: number, batch = batchAt): Promise<Reported> {
  const told: Reported = { losses: [], agreement: [] };
  for (let i = 0; i < steps; i++) {
    const { loss, gradNorm, stats } = await session.step(batch(session.steps)),
      counts = stats['moe/agreement']?.data;
    told.losses.push(loss, gradNorm);
    if (counts) told.agreement.push([Number(counts[0]), Number(counts[1])]);
  }
  return told;
}
const parametersOf = (session: Session): Record<string, number[]> =>
  Object.fromEntries(
    session
      .states()
      .filter(({ name }) => session.named.parameters.has(name))
      .map(({ name, read }) => [name, Array.from(peek(read).data, Number)]),
  );

const ROUTERS: Readonly<Record<string, () => Partial<MoEOptions>>> = {
  'softmax, normalised': () => ({}),
  'softmax, raw': () => ({ normalise: false }),
  switch: () => ({ topK: 1 }),
  'softmax after': () => ({ router: new TopKRouter({ dModel: WIDTH, experts: EXPERTS, softmax: 'after' }) }),
  groups: () => ({ router: new TopKRouter({ dModel: WIDTH, experts: EXPERTS, groups: { groups: 3, limit: 2 } }) }),
  sigmoid: () => ({ router: new SigmoidRouter({ dModel: WIDTH, experts: EXPERTS }), losses: { balance: 0.01 } }),
  noisy: () => ({ router: new NoisyTopKRouter({ dModel: WIDTH, experts: EXPERTS }) }),
  'dropping, by probability': () => ({ capacity: 1, priority: 'probs' }),
  spilling: () => ({ capacity: 0.75, overflow: 'spill', dispatch: 'padded' }),
};

for (const [name, options] of Object.entries(ROUTERS)) {
  test(`${name}: watched has the bits of live`, async () => {
    await using live = await open(new Model(options()));
    await using watched = await open(new Model({ ...options(), routing: 'watched' }));
    const [a, b] = [await run(live, 7), await run(watched, 7)];
    assert.deepEqual(b.losses, a.losses);
    assert.deepEqual(parametersOf(watched), parametersOf(live));
    assert.deepEqual([a.agreement.length, b.agreement.length], [0, 7]);
  });

  test(
    `${name}: cached has the bits of live if every choice is the remembered one`,
    { skip: name === 'noisy' && 'its choices are random' },
    async () => {
      // Nothing is trained, and the bias of the sigmoid router does not change either.
      const still = (): Partial<MoEOptions> =>
        name === 'sigmoid'
          ? { router: new SigmoidRouter({ dModel: WIDTH, experts: EXPERTS, biasRate: 0 }), losses: { balance: 0.01 } }
          : options();
      await using live = await open(new Model(still()), { lr: 0 });
      await using cached = await open(new Model({ ...still(), routing: 'cached' }), { lr: 0 });
      const [a, b] = [await run(live, 9), await run(cached, 9)];
      assert.deepEqual(b.losses, a.losses);
      assert.ok(
        b.agreement.slice(3).every(([agreed, compared]) => agreed === compared && compared > 0),
        JSON.stringify(b.agreement),
      );
    },
  );
}

test('watched and cached with eager updates, recompute, chunks, modules as experts, and einsum', async () => {
  const modules = (): MoEOptions['experts'] => Array.from({ length: EXPERTS }, () => new Linear(WIDTH, WIDTH));
  for (const [options, eager] of [
    [() => ({}), true],
    [() => ({ recompute: true }), false],
    [() => ({ chunks: 3 }), false],
    [() => ({ experts: modules() }), false],
    [() => ({ dispatch: 'einsum', capacity: 2 }), false],
  ] as const) {
    const told = await Promise.all(
      (['live', 'watched', 'cached'] as const).map(async (routing) => {
        await using session = await open(new Model({ ...options(), routing }), {
          optimizer: sgd({ lr: routing === 'cached' ? 0 : 0.5, eager }),
        });
        await using still = await open(new Model({ ...options() }), { optimizer: sgd({ lr: 0, eager }) });
        return { ...(await run(session, 7)), still: (await run(still, 7)).losses };
      }),
    );
    assert.deepEqual(told[1].losses, told[0].losses);
    assert.deepEqual(told[2].losses, told[2].still);
    assert.ok(told[2].agreement[6][1] > 0);
  }
});

test('all devices give the same choices, losses and agreement; native and wasm give the same bits', async () => {
  for (const routing of ['watched', 'cached'] as const) {
    const all = await Promise.all(
      [...devices, 'reference' as const].map(async (device) => {
        await using session = await open(new Model({ routing }), { device });
        const told = await run(session, 9),
          known = await session.assignments('moe');
        return {
          device,
          ...told,
          ids: known?.ids,
          choices: Array.from({ length: SAMPLES }, (_, id) => Array.from(known?.of(id) ?? [])),
        };
      }),
    );
    const [first] = all;
    for (const other of all.slice(1)) {
      assert.deepEqual(
        [other.agreement, other.ids, other.choices],
        [first.agreement, first.ids, first.choices],
        `${routing}: ${other.device}`,
      );
      if (other.device !== 'reference') assert.deepEqual(other.losses, first.losses);
      else assert.ok(other.losses.every((v, i) => Math.abs(v - first.losses[i]) < 1e-4));
    }
  }
});

test('a capacity changed by resizing the graph gives the results of a newly traced graph', async () => {
  const all: { losses: number[]; loads: number[][] }[] = [];
  for (const device of ['wasm', 'reference'] as const) {
    const model = new Model({ routing: 'cached', capacity: 1, dispatch: 'padded' }),
      losses: number[] = [],
      loads: number[][] = [];
    await using session = await open(model, { device }); // the reference traces again instead of resizing
    for (const capacity of [1, 1.5, 0.5, [1, 2, 0.5, 1, 1, 1]]) {
      model.moe.capacity = capacity;
      for (let i = 0; i < 4; i++) {
        const { loss, stats } = await session.step(batchAt(session.steps));
        losses.push(loss);
        loads.push(['load', 'dropped', 'agreement'].flatMap((name) => Array.from(stats[`moe/${name}`].data, Number)));
      }
    }
    all.push({ losses, loads });
  }
  assert.deepEqual(all[1].loads, all[0].loads);
  assert.ok(all[1].losses.every((v, i) => Math.abs(v - all[0].losses[i]) < 1e-4));
});

/** The live choices of all samples, computed from the router's weight W: the two largest of x W for each token. */
function liveChoices(session: Session): number[][] {
  const weight = parametersOf(session)['moe.router.weight'];
  return Array.from({ length: SAMPLES }, (_, id) =>
    Array.from({ length: TOKENS }, (_, t) => {
      const logits = Array.from({ length: EXPERTS }, (_, e) =>
        Array.from({ length: WIDTH }, (_, d) => X[(id * TOKENS + t) * WIDTH + d] * weight[d * EXPERTS + e]).reduce(
          (a, b) => a + b,
          0,
        ),
      );
      return logits
        .map((_, e) => e)
        .sort((a, b) => logits[b] - logits[a])
        .slice(0, 2);
    }).flat(),
  );
}

test('watched: agreement ignores the order of choices; the memory holds the live choices', async () => {
  await using session = await open(new Model({ routing: 'watched' }));
  const remembered = new Map<number, number[]>();
  let changed = 0;
  for (let i = 0; i < 12; i++) {
    const batch = batchAt(i),
      live = liveChoices(session),
      ids = [...(batch.ids ?? [])];
    let agreed = 0,
      compared = 0;
    for (const id of ids) {
      const before = remembered.get(id);
      if (before) {
        compared += 2 * TOKENS;
        for (let t = 0; t < TOKENS; t++)
          agreed += before.slice(2 * t, 2 * t + 2).filter((e) => live[id].slice(2 * t, 2 * t + 2).includes(e)).length;
      }
      remembered.set(id, live[id]);
    }
    changed += compared - agreed;
    const { stats } = await session.step(batch);
    assert.deepEqual(Array.from(stats['moe/agreement'].data), [agreed, compared], `step ${i}`);
  }
  assert.ok(changed > 0, 'no choice changed, so this test shows nothing');
  const known = await session.assignments('moe');
  assert.ok(known);
  assert.deepEqual([known.experts, known.tokens, known.k], [EXPERTS, TOKENS, 2]);
  for (const [id, choices] of remembered) assert.deepEqual(Array.from(known.of(id) ?? []), choices);
});

test('cached: loads follow from remembered choices; one sample in four is audited and stored again', async () => {
  await using session = await open(new Model({ routing: 'cached' }));
  await run(session, SAMPLES / SIZE);
  let refreshed = 0;
  for (let i = SAMPLES / SIZE; i < 18; i++) {
    const batch = batchAt(i),
      ids = [...(batch.ids ?? [])],
      before = await session.assignments('moe'),
      live = liveChoices(session),
      load = new Array<number>(EXPERTS).fill(0);
    for (const id of ids) for (const e of before?.of(id) ?? []) load[e]++;
    const { stats } = await session.step(batch),
      after = await session.assignments('moe');
    assert.deepEqual(Array.from(stats['moe/load'].data), load);
    assert.equal(Number(stats['moe/agreement'].data[1]), (SIZE / 4) * TOKENS * 2);
    const other = ids.filter((id) => after?.of(id)?.join() !== before?.of(id)?.join());
    assert.ok(other.length <= SIZE / 4);
    for (const id of other) assert.deepEqual(Array.from(after?.of(id) ?? []), live[id]);
    refreshed += other.length;
  }
  assert.ok(refreshed > 0, 'no remembered choice changed, so this test shows nothing');
});

test('cached: a sample that is not remembered uses its live choices, which are then remembered', async () => {
  await using session = await open(new Model({ routing: 'cached', audit: 1000 }));
  await run(session, 1, () => batchOf([0, 1, 2, 3, 4, 5, 6, 7]));
  const before = await session.assignments('moe'),
    live = liveChoices(session),
    batch = batchOf([0, 9, 2, 10, 4, 11, 6, 12]),
    load = new Array<number>(EXPERTS).fill(0);
  for (const id of batch.ids ?? []) for (const e of before?.of(id) ?? live[id]) load[e]++;
  const { stats } = await session.step(batch),
    after = await session.assignments('moe');
  assert.deepEqual(Array.from(stats['moe/load'].data), load);
  for (const id of [9, 10, 11, 12]) assert.deepEqual(Array.from(after?.of(id) ?? []), live[id]);
  assert.deepEqual(Array.from(after?.ids ?? []), [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12]);
});

test('cached: a pruned expert gets no token; only samples that remembered this expert are routed again', async () => {
  for (const split of [false, true]) {
    const model = new Model({ routing: 'cached', audit: 1000, active: EXPERTS - 1 });
    await using session = await open(model);
    await run(session, SAMPLES / SIZE);
    const before = await session.assignments('moe'),
      base = model.moe.slots;
    model.moe.slots = changeSlots(
      base,
      base,
      split ? { does: 'split', expert: 2, into: EXPERTS - 1 } : { does: 'prune', expert: 2 },
    );
    const batch = batchAt(SAMPLES / SIZE),
      ids = [...(batch.ids ?? [])],
      { stats } = await session.step(batch),
      load = Array.from(stats['moe/load'].data, Number),
      after = await session.assignments('moe');
    assert.equal(
      load.reduce((a, b) => a + b),
      SIZE * TOKENS * 2,
    );
    const remembered = ids.filter((id) => before?.of(id)?.includes(2));
    assert.ok(remembered.length > 0 && remembered.length < ids.length);
    // After a split, a token uses either the original or the copy, whichever has the higher score.
    if (split) {
      assert.ok(load[EXPERTS - 1] + load[2] > 0);
      continue;
    }
    assert.equal(load[2], 0);
    for (const id of ids) {
      if (remembered.includes(id)) assert.ok(!after?.of(id)?.includes(2));
      else assert.deepEqual(after?.of(id), before?.of(id));
    }
    for (const id of remembered) {
      const own = after?.of(id) ?? [];
      for (let t = 0; t < TOKENS; t++) assert.notEqual(own[2 * t], own[2 * t + 1]);
    }
  }
});

test('fewer slots than samples: a later sample takes the slot, without the choices of the earlier one', async () => {
  await using session = await open(new Model({ routing: 'cached', remember: 5 }));
  // Ids 1, 6 and 11 share a slot. Within a batch, the last one keeps it.
  const { agreement } = await run(session, 3, (step) =>
    batchOf([1, 6, 11, 3], step === 1 ? [1, 6, 11, 3].map((id) => id + 5) : [1, 6, 11, 3]),
  );
  const known = await session.assignments('moe');
  assert.deepEqual(Array.from(known?.ids ?? []), [3, 11]);
  assert.deepEqual([known?.of(1), known?.of(6), known?.of(8)], [null, null, null]);
  // In the second batch only id 11 is known (it is the id of sample 6). In the third batch none is known, since 16 and
  // 8 have the slots.
  assert.ok(agreement[1][1] <= TOKENS * 2 && agreement[0][1] === 0 && agreement[2][1] === 0, JSON.stringify(agreement));
});

test('the gate learns from the weights of remembered choices: gradients against finite differences', () => {
  for (const [router, options] of Object.entries(ROUTERS)) {
    if (router === 'spilling') continue; // spill.test.ts compares its gradients with those of a dropless layer
    const model = new Model({ ...options(), routing: 'cached', audit: 1 }),
      named = nameParameters(model),
      ids = [0, 1, 2];
    const graph = traceGraph(named, true, (t) => {
      t.samples = ids.length;
      const y = model.forward(t.state('x', { dtype: 'float32', shape: [ids.length, TOKENS, WIDTH] }));
      t.output(
        'total',
        t.losses.reduce(
          (s, l) => add(s, mul(l.value, l.coefficient)),
          meanSquaredError(y, t.constant({ dtype: 'float32', shape: [ids.length, TOKENS, WIDTH] }, rowsOf(Y, ids))),
        ),
      );
    });
    const k = model.moe.topK,
      memory = graph.inputs.find((i) => i.name.startsWith('assigned/')),
      trained = differentiate(graph, ops, 'total', ['moe.router.weight', 'x']);
    assert.ok(memory);
    const [, words] = graph.types[memory.value].shape.map(Number),
      table = new Float64Array(SAMPLES * words);
    // All samples have the remembered choices 5 and 3 (four bits each), whatever the live ones are, so the finite
    // differences do not change choices.
    for (const id of ids) {
      table[id * words] = id + 1;
      for (let c = 0; c < TOKENS * k; c++) table[id * words + 1] += (c % k === 0 ? 5 : 3) * 2 ** (4 * c);
    }
    const values: Record<string, Float64Array> = {
      x: Float64Array.from(rowsOf(X, ids)),
      ids: Float64Array.from(ids),
      step: Float64Array.of(1),
      seed: Float64Array.of(1),
      [memory.name]: table,
    };
    for (const [p, parameter] of named.parameters) values[p] = Float64Array.from(initialValue(parameter, p, 3));
    const outputs = (changed: Record<string, Float64Array> = {}): Record<string, Float64Array> => {
      const all = evaluate(trained, ops, (i) =>
        i.kind === 'constant' ? Float64Array.from(i.data ?? []) : { ...values, ...changed }[i.name],
      );
      return Object.fromEntries(trained.outputs.map((o) => [o.name, all[o.value]]));
    };
    const found = outputs(),
      h = 1e-5;
    for (const name of ['moe.router.weight', 'x']) {
      let largest = 0;
      for (let i = 0; i < values[name].length; i += 3) {
        const shifted = (by: number): number => {
          const v = values[name].slice();
          v[i] += by;
          return outputs({ [name]: v })['total'][0];
        };
        const wanted = (shifted(h) - shifted(-h)) / (2 * h),
          got = found[`grad/${name}`][i];
        largest = Math.max(largest, Math.abs(wanted));
        assert.ok(
          Math.abs(wanted - got) < 1e-6 + 1e-5 * Math.abs(wanted),
          `${router}, ${name}[${i}]: ${got} against ${wanted}`,
        );
      }
      assert.ok(largest > 1e-4, `${router}: no gradient reaches ${name}`);
    }
  }
});

test('a run that was saved and loaded continues with the same bits; a failed step remembers nothing', async () => {
  for (const routing of ['watched', 'cached'] as const) {
    await using first = await open(new Model({ routing }));
    await run(first, 5);
    const bytes = await first.serialize(),
      rest = await run(first, 6);
    await using second = await open(new Model({ routing }));
    await second.deserialize(bytes);
    assert.deepEqual(await run(second, 6), rest);
    assert.deepEqual((await second.assignments('moe'))?.ids, (await first.assignments('moe'))?.ids);
  }
  await using session = await open(new Model({ routing: 'watched' }));
  await run(session, 1, () => batchOf([0, 1]));
  const broken = batchOf([2, 3]);
  broken.x.data[0] = NaN;
  await assert.rejects(session.step(broken), /nothing was stored/);
  assert.deepEqual(Array.from((await session.assignments('moe'))?.ids ?? []), [0, 1]);
});

test('each micro-batch remembers its own samples', async () => {
  await using whole = await open(new Model({ routing: 'watched', balance: 0, zLoss: 0 }), { lr: 0 });
  await using parts = await open(new Model({ routing: 'watched', balance: 0, zLoss: 0 }), { lr: 0, accumulate: 2 });
  const [a, b] = [await run(whole, 6), await run(parts, 6)],
    [x, y] = [await whole.assignments('moe'), await parts.assignments('moe')];
  assert.deepEqual(b.agreement, a.agreement);
  for (let id = 0; id < SAMPLES; id++) assert.deepEqual(y?.of(id), x?.of(id));
});

test('a memory takes 4 bytes a sample and at most 1 byte a choice up to 256 experts, and is written in place', () => {
  const bytes = (experts: number, topK: number): { state: number; arena: number } => {
    const layer = (routing: 'live' | 'watched' | 'cached'): ReturnType<typeof compileGraph>['program'] => {
      const model = new Model({ experts, topK, hidden: 4, routing, remember: 5000 }),
        named = nameParameters(model);
      const forward = traceGraph(named, true, (t) => {
        t.samples = 4;
        t.output(
          'total',
          meanSquaredError(
            model.forward(t.input('input', 'x', { dtype: 'float32', shape: [4, 16, WIDTH] })),
            t.constant({ dtype: 'float32', shape: [4, 16, WIDTH] }, new Float32Array(4 * 16 * WIDTH)),
          ),
        );
      });
      return compileGraph(trainingGraph(forward, sgd({ lr: 0.1 }), [...named.parameters.keys()])).program;
    };
    const [live, watched, cached] = [layer('live'), layer('watched'), layer('cached')];
    assert.ok(!live.inputs.some((i) => i.name === 'ids') && !live.states.some((s) => s.name.startsWith('assigned/')));
    const [own] = watched.states.filter((s) => s.name.startsWith('assigned/'));
    return {
      state: watched.tensors[own.tensor].bytes,
      arena: Math.max(watched.slabs.arena, cached.slabs.arena) - live.slabs.arena,
    };
  };
  for (const [experts, topK, choice] of [
    [256, 2, 1],
    [100, 3, 1],
    [16, 2, 0.5],
    [4, 2, 0.25],
    [300, 2, 2],
  ] as const) {
    const { state, arena } = bytes(experts, topK);
    assert.equal(state, 5000 * (4 + Math.ceil((16 * topK * choice) / 4) * 4), `${experts} experts`);
    assert.ok(arena < 5000, `no copy of the memory in the arena: ${arena}`);
  }
});

test('a plan that writes a memory before its last reader is refused', () => {
  const model = new Model({ routing: 'cached' }),
    named = nameParameters(model),
    zeros = (): Float32Array => new Float32Array(2 * TOKENS * WIDTH);
  const forward = traceGraph(named, true, (t) => {
    t.samples = 2;
    t.output(
      'total',
      meanSquaredError(
        model.forward(t.constant({ dtype: 'float32', shape: [2, TOKENS, WIDTH] }, zeros())),
        t.constant({ dtype: 'float32', shape: [2, TOKENS, WIDTH] }, zeros()),
      ),
    );
  });
  const { program } = compileGraph(trainingGraph(forward, sgd({ lr: 0.1 }), [...named.parameters.keys()])),
    place = (op: string): number => program.steps.findIndex((s) => s.ops.includes(op));
  const from = place('remember'),
    to = Math.min(place('recall'), place('recalls')),
    early = { ...program.steps[from], barrier: true };
  assert.ok(from > to && to >= 0);
  // `remember` is moved directly before a reader of the memory. All its inputs exist there, so only the order is
  // wrong.
  const reader = program.steps[to];
  const steps = [
    ...program.steps.slice(0, from),
    early,
    { ...reader, barrier: true },
    ...program.steps.slice(from + 1),
  ];
  assert.throws(
    () => verifyProgram({ ...program, steps }),
    /assigned\/choices\/moe.* is overwritten by step \d+ before its last reader/,
  );
  verifyProgram(program);
});

test('choices among more than 256 experts are remembered', async () => {
  await using session = await open(new Model({ experts: 300, hidden: 4, routing: 'watched', balance: 0 }), { lr: 0 });
  const { agreement } = await run(session, 6),
    known = await session.assignments('moe');
  assert.deepEqual(agreement[5], [SIZE * TOKENS * 2, SIZE * TOKENS * 2]);
  assert.ok(
    [...(known?.of(0) ?? []), ...(known?.of(1) ?? []), ...(known?.of(2) ?? []), ...(known?.of(3) ?? [])].some(
      (e) => e > 255,
    ),
  );
});

test('evaluation uses the live gate and keeps the memory; a batch without ids is not remembered', async () => {
  await using cached = await open(new Model({ routing: 'cached' }), { seed: 1 });
  await run(cached, 12);
  await using live = await open(new Model(), { seed: 1 });
  await live.restore(
    0,
    cached
      .states()
      .filter(({ name }) => live.named.parameters.has(name))
      .map(({ name, read }) => ({ name, value: peek(read) })),
  );
  const before = await cached.assignments('moe');
  assert.deepEqual((await cached.forward(batchAt(1)))['loss'].data, (await live.forward(batchAt(1)))['loss'].data);
  const { stats } = await cached.step(batchOf([0, 1, 2, 3, 4, 5, 6, 7], null)),
    plain = await live.step(batchOf([0, 1, 2, 3, 4, 5, 6, 7], null));
  assert.equal(stats['moe/agreement'], undefined);
  assert.deepEqual(stats['moe/load'].data, plain.stats['moe/load'].data);
  assert.deepEqual((await cached.assignments('moe'))?.of(3), before?.of(3));
  assert.equal(await live.assignments('moe'), null);
  await assert.rejects(live.assignments('nowhere'), UserError);
});

test('gateFrozen keeps the values of the gate', async () => {
  const model = new Model({ routing: 'cached' });
  await using session = await open(model);
  await run(session, 3);
  model.moe.gateFrozen = true;
  const before = parametersOf(session);
  await run(session, 3);
  const after = parametersOf(session);
  assert.deepEqual(after['moe.router.weight'], before['moe.router.weight']);
  assert.notDeepEqual(after['moe.experts.w1'], before['moe.experts.w1']);
  model.moe.gateFrozen = false;
  await run(session, 3);
  assert.notDeepEqual(parametersOf(session)['moe.router.weight'], before['moe.router.weight']);
});

test('routers, settings and batches whose choices cannot be remembered are refused by name', async () => {
  const of = { dModel: WIDTH, experts: EXPERTS };
  const routers: readonly Router[] = [
    new ExpertChoiceRouter(of),
    new HashRouter({ experts: EXPERTS }),
    new SinkhornRouter(of),
  ];
  for (const router of routers)
    assert.throws(
      () => new Model({ router, routing: 'watched' }),
      new RegExp(`choices of a ${router.constructor.name} cannot be remembered`),
    );
  assert.throws(() => new Model({ routing: 'sometimes' as never }), /no routing named sometimes/);
  for (const wrong of [0, 1.5, -1, NaN]) {
    assert.throws(() => new Model({ remember: wrong }), /remember must be a whole number/);
    assert.throws(() => new Model({ audit: wrong }), /audit must be a whole number/);
  }
  class Deaf extends TopKRouter {
    override choose(x: Tensor, call: Parameters<TopKRouter['choose']>[1]): ReturnType<TopKRouter['choose']> {
      return super.choose(x, { k: call.k });
    }
  }
  await using deaf = await open(new Model({ router: new Deaf(of), routing: 'watched' }));
  await assert.rejects(deaf.step(batchAt(0)), /its router chose experts without calling `pick`/);
  class Twice {
    readonly moe = new Model({ routing: 'watched' }).moe;
    forward(x: Tensor): Tensor {
      return this.moe.forward(this.moe.forward(x));
    }
  }
  await using twice = await compile(new Twice(), {
    loss: meanSquaredError,
    optimizer: sgd({ lr: 0.1 }),
    device: 'wasm',
    threads: 1,
    memory: 256e6,
  });
  await assert.rejects(twice.step(batchAt(0)), /moe: the layer is called twice in a step/);
  await using session = await open(new Model({ routing: 'watched' }));
  for (const ids of [Int32Array.of(1), Int32Array.of(0, -1), [0, 1] as never])
    await assert.rejects(session.step({ ...batchOf([0, 1]), ids }), /the batch's ids must be/);
});
