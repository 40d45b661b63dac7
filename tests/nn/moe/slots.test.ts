// Adding and removing experts: the value of the knob `slots`; a split changes no output, a merge gives means, a prune
// gives what a layer without the expert gives.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { TypedArray } from '../../../src/base/dtype.ts';
import type { HostTensor } from '../../../src/base/tensor.ts';
import { Linear } from '../../../src/nn/linear.ts';
import { MLP } from '../../../src/nn/mlp.ts';
import { ExpertChoiceRouter, HashRouter } from '../../../src/nn/moe/fixed-routers.ts';
import { MoE, type MoEOptions } from '../../../src/nn/moe/moe.ts';
import type { Router } from '../../../src/nn/moe/router.ts';
import { NoisyTopKRouter, SigmoidRouter, SinkhornRouter, TopKRouter } from '../../../src/nn/moe/routers.ts';
import { changeSlots, readSlots, type SlotsValue } from '../../../src/nn/moe/slots.ts';
import { sgd } from '../../../src/optim/sgd.ts';
import { compactExperts } from '../../../src/nn/moe/upcycle.ts';
import { draftOf } from '../../../src/recompile/draft.ts';
import { freeSlots, mergeExperts, pruneExpert, splitExpert } from '../../../src/recompile/policies/lifecycle.ts';
import { compileGraph } from '../../../src/pipeline.ts';
import { Knobs } from '../../../src/trace/knobs.ts';
import { nameParameters } from '../../../src/trace/module.ts';
import { initialValue } from '../../../src/trace/parameter.ts';
import { peek } from '../../support/delayed-device.ts';
import { fingerprint } from '../../support/toy.ts';
import { batch, D, changeNow, output, valuesAt, T, trainedSession } from './change-experts.ts';
import { devices, difference, layerGraph, normals, runLayer } from './layer.ts';
import { anyMoE } from '../../support/moe.ts';

const layer = (options: Partial<MoEOptions> = {}): MoE =>
  anyMoE({ dModel: D, experts: 6, topK: 2, hidden: 8, bias: true, ...options });
const routers: Readonly<Record<string, (experts: number) => Router>> = {
  normalised: (experts) => new TopKRouter({ dModel: D, experts, normalise: true }),
  raw: (experts) => new TopKRouter({ dModel: D, experts, normalise: false }),
  'softmax after': (experts) => new TopKRouter({ dModel: D, experts, softmax: 'after' }),
  sigmoid: (experts) => new SigmoidRouter({ dModel: D, experts, biasRate: 0.05 }),
};

test('the value of the knob says what the slots hold and what the last change did', () => {
  const start: SlotsValue = ['on', 'on', 'off', 'off'];
  let value = changeSlots(start, start, { does: 'split', expert: 1, into: 2 });
  assert.deepEqual(value, ['on', 'on', 'off', 'off', 1, 'split 1 into 2']);
  assert.deepEqual(readSlots(value).families, [0, 1, 1, null]);
  value = changeSlots(start, value, { does: 'merge', expert: 0, into: 1, share: 0.25 });
  assert.deepEqual(
    value,
    ['on', 'on', 'off', 'off', 1, 'split 1 into 2', 'merge 0 into 1 by 0.25'],
    'changes of one decision are appended',
  );
  const next = changeSlots(value, value, { does: 'prune', expert: 1 });
  assert.deepEqual(
    next,
    ['off', 'on', 'like 1', 'off', 2, 'prune 1'],
    'the next decision starts from the result of the last one',
  );
  assert.deepEqual(readSlots(next).families, [null, null, 2, null], 'a family has the number of its first slot');
  for (const [bad, message] of [
    [['on', 'on', 'off'], /the 4 slots/],
    [['on', 'on', 'off', 'maybe'], /slot 3 is 'on', 'off' or 'like'/],
    [['on', 'on', 'off', 'like 2'], /slot 3/],
    [['like 1', 'on', 'off', 'off'], /slot 0/],
    [['off', 'off', 'off', 'off'], /no slot holds/],
    [['on', 'off', 'off', 'off', 1, 'prune 0'], /no slot holds/],
    [['on', 'on', 'off', 'off', 1], /number of a change/],
    [['on', 'on', 'off', 'off', 1, 'explode 1'], /"explode 1" is no change/],
    [['on', 'on', 'off', 'off', 1, 'split 1 into 0'], /slot 0 is not free/],
    [['on', 'on', 'off', 'off', 1, 'split 2 into 3'], /slot 2 holds no expert/],
    [['on', 'on', 'off', 'off', 1, 'split 1 into 9'], /slot 9 is not free/],
    [['on', 'on', 'off', 'off', 1, 'merge 1 into 1 by 0.5'], /slot 1 holds no other/],
    [['on', 'on', 'off', 'off', 1, 'merge 1 into 0 by 2'], /share is from 0 to 1/],
    [['on', 'on', 'off', 'off', -1, 'prune 0'], /number of a change/],
    ['on', /list/],
  ] as const)
    assert.throws(() => readSlots(bad, 4), { name: 'UserError', message }, String(bad));
});

test('invalid changes are refused by name and do not change the layer', () => {
  assert.throws(() => layer({ active: 7 }), /active must be from 1 to the number of experts \(6\), got 7/);
  assert.throws(() => layer({ active: 1 }), /topK 2 needs as many experts to choose from, and there are 1/);
  const moe = layer({ active: 3 });
  assert.deepEqual(
    [moe.active, freeSlots(moe)],
    [
      [true, true, true, false, false, false],
      [3, 4, 5],
    ],
  );
  const { model: draft, changes } = draftOf(moe);
  assert.throws(() => {
    pruneExpert(draft, 5);
  }, /slot 5 holds no expert/);
  assert.equal(splitExpert(draft, 0), 3);
  pruneExpert(draft, 1);
  assert.throws(() => {
    pruneExpert(draft, 2);
  }, /needs as many experts to choose from, and there are 1 \(2, but copies of one another count once\)/);
  assert.deepEqual(
    changes().map((c) => [c.knob, c.to]),
    [['slots', ['on', 'on', 'on', 'off', 'off', 'off', 1, 'split 0 into 3', 'prune 1']]],
  );
  assert.deepEqual(moe.active, [true, true, true, false, false, false]);
  assert.throws(() => {
    splitExpert(moe, 0);
  }, /does not belong to a draft.*\n.*alter/);
  assert.throws(() => splitExpert(draftOf(layer()).model, 0), /no slot is free/);
  moe.slots = ['on', 'on', 'off', 'off', 'off', 'off'];
  assert.throws(() => {
    moe.topK = 3;
  }, /topK 3 needs as many experts to choose from, and there are 2/);
  const others: Router[] = [
    new NoisyTopKRouter({ dModel: D, experts: 6 }),
    new SinkhornRouter({ dModel: D, experts: 6 }),
    new ExpertChoiceRouter({ dModel: D, experts: 6 }),
    new HashRouter({ experts: 6 }),
    new TopKRouter({ dModel: D, experts: 6, groups: { groups: 2, limit: 1 } }),
  ];
  for (const router of others) {
    assert.throws(
      () => {
        pruneExpert(draftOf(layer({ router })).model, 0);
      },
      new RegExp(`${router.constructor.name} does not support adding and removing experts`),
    );
    assert.throws(() => layer({ router, active: 4 }), new RegExp(`with a ${router.constructor.name} experts cannot`));
  }
});

test('knobs whose setters depend on each other are restored in a valid order', () => {
  const small = layer({ topK: 1, active: 1 }),
    large = layer({ topK: 3 }),
    [less, more] = [small, large].map((moe) => new Knobs(nameParameters(moe)));
  const [a, b] = [less.all(), more.all()],
    inForce = (knobs: Knobs, moe: MoE): unknown[] => knobs.onModules(() => [moe.topK, ...moe.active]);
  less.restore(b);
  more.restore(a);
  assert.deepEqual(
    [inForce(less, small), inForce(more, large)],
    [
      [3, ...new Array<boolean>(6).fill(true)],
      [1, true, false, false, false, false, false],
    ],
  );
  assert.deepEqual(
    [small.topK, small.active.length, large.topK],
    [1, 6, 3],
    'the layers keep the values of their user',
  );
  assert.throws(() => {
    more.restore({ '': { dispatch: 'padded', topK: 2, slots: a[''].slots } });
  }, /topK 2 needs/);
  assert.equal(more.settings('')['dispatch'], 'ragged', 'a refused restore changes nothing');
  const changes = [
    { path: '', knob: 'topK', from: 3, to: 1 },
    { path: '', knob: 'slots', from: b[''].slots, to: a[''].slots },
  ];
  less.apply(changes);
  less.apply(changes.map((c) => ({ ...c, from: c.to, to: c.from })));
  assert.deepEqual(
    inForce(less, small),
    [3, ...new Array<boolean>(6).fill(true)],
    'the changes are taken back in the same order',
  );
  less.keep();
  assert.deepEqual([small.topK, small.active.includes(false)], [3, false], '`keep` writes the settings on the layer');
});

for (const device of ['reference', ...devices] as const) {
  for (const [name, router] of Object.entries(routers)) {
    test(`${device}, ${name}: a split copies moments and keeps outputs; training makes the copies differ`, async () => {
      for (const topK of [1, 2, 3]) {
        await using session = await trainedSession(
          layer({ active: 4, topK, router: router(6), losses: { balance: 0.1, z: 0.01 } }),
          device,
        );
        const moe = session.model as MoE,
          before = await output(session),
          tolerance = device === 'reference' ? 1e-12 : 1e-5;
        await changeNow(session, (m) => {
          splitExpert(m, 1);
        });
        assert.ok(
          difference(await output(session), before) < tolerance,
          `top-${topK}: ${difference(await output(session), before)}`,
        );
        assert.deepEqual(moe.slots.slice(6), [1, 'split 1 into 4']);
        const names = session
            .states()
            .map((s) => s.name)
            .filter((n) => !n.includes('sum/')),
          axis = (n: string): number => (n.endsWith('router.weight') ? 1 : 0);
        assert.ok(names.length >= 15 && names.some((n) => n.startsWith('optim/v/')));
        for (const n of names) assert.deepEqual(valuesAt(session, n, 4, axis(n)), valuesAt(session, n, 1, axis(n)), n);
        // Another copy of the same expert: a token chooses at most one of the three.
        await changeNow(session, (m) => {
          splitExpert(m, 4, 5);
        });
        assert.ok(difference(await output(session), before) < tolerance, `top-${topK}, again`);
        const load = new Array<number>(6).fill(0);
        for (let i = 4; i < 40; i++)
          Array.from((await session.step(batch(i))).stats['/load'].data, Number).forEach((n, e) => {
            load[e] += n;
          });
        assert.ok(load.every((n) => n > 0) && load.reduce((a, b) => a + b) === 36 * T * topK, load.join());
        assert.notDeepEqual(valuesAt(session, 'experts.w1', 4), valuesAt(session, 'experts.w1', 1));
        assert.notDeepEqual(valuesAt(session, 'router.weight', 5, 1), valuesAt(session, 'router.weight', 4, 1));
      }
    });
  }
}

test("a token chooses at most one slot of a family; the token's number decides ties", async () => {
  // The rate is 0, so that copies stay equal.
  await using session = await trainedSession(layer({ active: 4, topK: 3 }), 'reference', sgd({ lr: 0 }));
  const count = async (): Promise<number[]> => Array.from((await session.step(batch(9))).stats['/load'].data, Number),
    own = await count();
  await changeNow(session, (m) => {
    splitExpert(m, 0);
    splitExpert(m, 0);
  });
  const shared = await count();
  assert.equal(shared[0] + shared[4] + shared[5], own[0]);
  assert.deepEqual(shared.slice(1, 4), own.slice(1, 4));
  assert.ok(
    shared[0] > own[0] / 4 && shared[5] > own[0] / 4 && shared[4] === 0,
    `even tokens choose the first slot, odd tokens the last: ${shared.join()}`,
  );
});

for (const device of ['reference', ...devices] as const) {
  test(`${device}: a merge gives weighted means, also of moments; merging a copy back restores outputs`, async () => {
    await using session = await trainedSession(layer(), device);
    const names = session.states().map((s) => s.name),
      axis = (n: string): number => (n.endsWith('router.weight') ? 1 : 0);
    const before = new Map(names.map((n) => [n, [2, 5].map((e) => valuesAt(session, n, e, axis(n)))]));
    const back = await changeNow(session, (m) => {
      mergeExperts(m, 2, 5, 0.25);
    });
    for (const n of names) {
      const [[a, b], got] = [before.get(n) ?? [], valuesAt(session, n, 2, axis(n))],
        mean = a.map((v, i) => 0.75 * v + 0.25 * b[i]);
      assert.ok(difference(got, mean) < (device === 'reference' ? 1e-15 : 1e-7), n);
      assert.deepEqual(valuesAt(session, n, 5, axis(n)), b, 'a free slot keeps its values');
    }
    back();
    const was = await output(session),
      kept = fingerprint(session);
    await changeNow(session, (m) => {
      pruneExpert(m, 4);
    });
    const without = await output(session);
    await changeNow(session, (m) => {
      splitExpert(m, 0);
    });
    await changeNow(session, (m) => {
      mergeExperts(m, 4, 0, 1 / 3);
    });
    assert.ok(difference(await output(session), without) < (device === 'reference' ? 1e-12 : 1e-5));
    await changeNow(session, (m) => {
      splitExpert(m, 4);
      mergeExperts(m, 0, 4, 0.9);
    });
    assert.ok(difference(await output(session), without) < (device === 'reference' ? 1e-12 : 1e-5));
    assert.ok(difference(was, without) > 1e-3 && Object.keys(kept).length === names.length);
  });
}

/** Initial values of a layer, without the expert `without`. */
function valuesOf(moe: MoE, without: number | null): Record<string, TypedArray> {
  return Object.fromEntries(
    [...nameParameters(moe).parameters].map(([name, p]) => {
      const data = initialValue(p, name, 3),
        axis = name === 'router.weight' ? 1 : 0,
        inner = p.shape.slice(axis + 1).reduce((n, d) => n * d, 1);
      const own = name.includes('.b') ? normals(name, p.size, 0.3) : data;
      return [name, own.filter((_, i) => without === null || Math.floor(i / inner) % p.shape[axis] !== without)];
    }),
  );
}

for (const [name, router] of Object.entries(routers)) {
  for (const topK of [1, 2]) {
    test(`${name}, top-${topK}: a layer with a free slot equals a layer without that expert`, async () => {
      const gone = 2,
        losses = { balance: 0.3, gshard: 0.2, importance: 0.1, z: 0.05 },
        options = { topK, losses, capacity: 0.75 };
      const moe = layer({ ...options, router: router(6) }),
        fewer = layer({ ...options, experts: 5, router: router(5) }),
        values = valuesOf(moe, null),
        ids = { values: valuesOf(moe, gone) };
      moe.slots = ['on', 'on', 'off', 'on', 'on', 'on'];
      const [got, want] = [await runLayer(moe, [T, D], { values }), await runLayer(fewer, [T, D], ids)];
      assert.ok(
        want['stat:/dropped'].some((n) => n > 0),
        'some choices are dropped',
      );
      for (const [key, expected] of Object.entries(want)) {
        const n = got[key].length,
          axis = key.endsWith('router.weight') ? 1 : 0,
          inner = key.startsWith('grad/') || key.startsWith('after:') ? n / 6 / (axis === 1 ? D : 1) : 1;
        const per = got[key].length !== expected.length,
          part = (of: (e: number) => boolean): number[] => got[key].filter((_, i) => of(Math.floor(i / inner) % 6));
        assert.ok(
          difference(per ? part((e) => e !== gone) : got[key], expected) < 1e-12,
          `${key}: ${difference(per ? part((e) => e !== gone) : got[key], expected)}`,
        );
        if (per)
          assert.ok(
            part((e) => e === gone).every((v) => v === (key.startsWith('after:') ? values[key.slice(6)][gone] : 0)),
            `${key} of the free slot`,
          );
      }
      for (const device of devices) {
        const on = await runLayer(moe, [T, D], { values, device });
        for (const key of Object.keys(want)) assert.ok(difference(on[key], got[key]) < 1e-4, `${key} on ${device}`);
      }
    });
  }
}

test('modules as experts: a copy needs equal shapes, otherwise an error names them', async () => {
  const experts = [new MLP([D, 8, D]), new MLP([D, 8, D]), new Linear(D, D), new MLP([D, 9, D])];
  await using session = await trainedSession(
    new MoE({ dModel: D, experts, topK: 2, active: 4, balance: 0.1 }),
    'reference',
  );
  await changeNow(session, (m) => {
    pruneExpert(m, 1);
  });
  const before = await output(session),
    states = fingerprint(session);
  for (const [from, what] of [
    [2, /experts 2 and 1 are of different shapes/],
    [3, /are of different shapes: .*weight is float32 \[6, 9\] and float32 \[6, 8\]/],
  ] as const)
    await assert.rejects(
      changeNow(session, (m) => {
        splitExpert(m, from);
      }),
      what,
    );
  assert.deepEqual(fingerprint(session), states);
  await changeNow(session, (m) => {
    splitExpert(m, 0);
  });
  assert.ok(difference(await output(session), before) < 1e-12);
  const after = fingerprint(session);
  for (const name of Object.keys(after).filter((n) => n.includes('experts.0.')))
    assert.equal(after[name.replace('experts.0.', 'experts.1.')], after[name], name);
  await session.step(batch(5));
});

test('compactExperts: a checkpoint without the free slots computes the same', async () => {
  await using session = await trainedSession(
    layer({ active: 5, router: new SigmoidRouter({ dModel: D, experts: 6, biasRate: 0.05 }) }),
    'reference',
  );
  await changeNow(session, (m) => {
    pruneExpert(m, 1);
  });
  // The layer is the whole model, so its path is empty. compactExperts needs a path: `moe` is added to the names.
  const moe = session.model as MoE,
    tensors = new Map(
      session
        .states()
        .map(({ name, read }): [string, HostTensor] => [name.replace(/^(optim\/\w+\/)?/, '$1moe.'), peek(read)]),
    );
  const compact = compactExperts(tensors, { moe: 'moe', slots: moe.slots });
  assert.deepEqual(
    [
      compact.get('moe.experts.w1')?.shape[0],
      compact.get('optim/m/moe.router.weight')?.shape,
      compact.get('moe.router.bias')?.shape,
    ],
    [4, [D, 4], [4]],
  );
  await using other = await trainedSession(
    layer({ experts: 4, router: new SigmoidRouter({ dModel: D, experts: 4, biasRate: 0.05 }) }),
    'reference',
  );
  await other.restore(
    4,
    [...compact].map(([name, value]) => ({ name: name.replace('moe.', ''), value })),
  );
  assert.ok(difference(await output(other), await output(session)) < 1e-12);
  await changeNow(session, (m) => {
    splitExpert(m, 0);
  });
  assert.throws(
    () => compactExperts(tensors, { moe: 'moe', slots: moe.slots }),
    /experts 0 and 1 of moe are copies of one another/,
  );
});

test('which slots hold an expert is data: other slots run the same kernels', () => {
  for (const router of Object.values(routers)) {
    const moe = layer({
      capacity: 1.5,
      router: router(6),
      losses: { balance: 0.1, gshard: 0.1, importance: 0.1, z: 0.1 },
    });
    const keys = (...slots: SlotsValue): string[] => {
      moe.slots = slots;
      return compileGraph(layerGraph(moe, [T, D]))
        .kernels.map((k) => k.key)
        .sort();
    };
    assert.deepEqual(keys('off', 'on', 'on', 'off', 'off', 'on'), keys('on', 'on', 'on', 'on', 'off', 'on'));
    assert.deepEqual(
      keys('on', 'on', 'like 1', 'off', 'on', 'on'),
      keys('on', 'like 0', 'on', 'like 2', 'on', 'off', 3, 'prune 4'),
    );
  }
});

test('eager optimisers do not change a free slot either', async () => {
  const plain = await trainedSession(
      layer({ active: 4 }),
      'reference',
      sgd({ lr: 0.05, momentum: 0.9, weightDecay: 0.1 }),
    ),
    eager = await trainedSession(
      layer({ active: 4 }),
      'reference',
      sgd({ lr: 0.05, momentum: 0.9, weightDecay: 0.1, eager: true }),
    );
  assert.deepEqual(fingerprint(eager), fingerprint(plain));
  for (const name of ['experts.w1', 'router.weight']) {
    const p = nameParameters(plain.model).parameters.get(name),
      axis = name === 'router.weight' ? 1 : 0;
    assert.ok(p);
    const inner = axis === 1 ? 1 : p.size / 6,
      start = Array.from(initialValue(p, name, 1)).filter((_, i) => Math.floor(i / inner) % 6 === 5);
    assert.deepEqual(valuesAt(plain, name, 5, axis), start, `${name} has its initial values`);
  }
  await plain.close();
  await eager.close();
});
