// The policy lab: synthetic loads, traces as text, the cost of a step, the plan of a planner that knows all loads
// beforehand (clairvoyant), and replaying a trace through the engine with a stand-in model.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { UserError } from '../../../src/base/errors.ts';
import { hostTensor } from '../../../src/base/tensor.ts';
import { MoE, type MoEOptions } from '../../../src/nn/moe/moe.ts';
import { DISPATCHES } from '../../../src/nn/moe/strategies.ts';
import { meanSquaredError } from '../../../src/nn/loss.ts';
import { sgd } from '../../../src/optim/sgd.ts';
import { adaptCapacity } from '../../../src/recompile/policies/adaptCapacity.ts';
import { chooseDispatch } from '../../../src/recompile/policies/chooseDispatch.ts';
import { clairvoyant } from '../../../src/recompile/lab/clairvoyant.ts';
import { costOf, outcomeOf, PRICES } from '../../../src/recompile/lab/cost.ts';
import { generate, WORKLOADS } from '../../../src/recompile/lab/generate.ts';
import { replay } from '../../../src/recompile/lab/replay.ts';
import { layersOfModel, parseTrace, traceLines, type Trace } from '../../../src/recompile/lab/trace.ts';
import { compile } from '../../../src/session/node.ts';
import { normals } from '../../nn/moe/layer.ts';

const SMALL = { experts: 8, tokens: 64, steps: 160 } as const;
const sum = (list: readonly number[]): number => list.reduce((a, b) => a + b, 0);

test('synthetic loads: k different experts for each token; equal seeds give equal loads', () => {
  for (const name of Object.keys(WORKLOADS)) {
    const { loads } = generate(name, SMALL);
    assert.equal(loads.length, 160);
    for (const [own] of loads) {
      assert.ok(name === 'sizes' ? [64, 96, 128].includes(sum(own)) : sum(own) === 128, `${name} ${own.join()}`);
      assert.ok(
        own.every((n) => n <= sum(own) / 2),
        'a token chooses an expert at most once',
      );
    }
    assert.deepEqual(generate(name, SMALL).loads, loads);
    assert.notDeepEqual(generate(name, { ...SMALL, seed: 2 }).loads, loads);
  }
  assert.throws(() => generate('nonsense'), /no workload named "nonsense"/);
  assert.throws(() => generate('idle', { experts: 2, k: 2 }), /cannot go to 2 experts of 1/);
});

test('each workload has the property that its name says', () => {
  const totals = (name: string, from: number, to: number): number[] =>
    generate(name, { ...SMALL, steps: 1024 })
      .loads.slice(from, to)
      .reduce((n, [own]) => n.map((v, e) => v + own[e]), new Array<number>(8).fill(0));
  const sorted = (list: readonly number[]): number[] => [...list].sort((a, b) => b - a),
    hottest = (list: readonly number[]): number[] =>
      [...list.keys()]
        .sort((a, b) => list[b] - list[a])
        .slice(0, 2)
        .sort();
  const balanced = sorted(totals('balanced', 0, 100)),
    spread = sorted(totals('spread', 0, 100)),
    hot = sorted(totals('hot', 0, 100));
  assert.ok(balanced[0] < 1.2 * balanced[7] && spread[0] > 5 * spread[7] && hot[1] > 2 * hot[2]);
  assert.equal(totals('idle', 0, 100).filter((n) => n === 0).length, 2);
  assert.notDeepEqual(hottest(totals('rotating', 0, 200)), hottest(totals('rotating', 300, 500)));
  assert.notDeepEqual(hottest(totals('drift', 0, 50)), hottest(totals('drift', 974, 1024)));
  assert.deepEqual(hottest(totals('hot', 0, 50)), hottest(totals('hot', 974, 1024)));
});

test('traces survive a text file; errors in the file name the line', () => {
  const trace = generate('spread', { ...SMALL, steps: 5, capacity: [1, 2, 1, 1, 1, 1, 1, 1] }),
    text = traceLines(trace);
  assert.deepEqual(parseTrace(text, 'a.jsonl'), { ...trace, where: 'a.jsonl' });
  const lines = text.split('\n'),
    wrong = (at: number, line: string, what: RegExp): void => {
      assert.throws(() => parseTrace(lines.map((l, i) => (i === at ? line : l)).join('\n'), 'a.jsonl'), what);
    };
  wrong(0, '{}', /a.jsonl: line 1: is not the header/);
  wrong(0, lines[0].replace('"k":2', '"k":9'), /k at most experts/);
  wrong(0, lines[0].replace('padded', 'magic'), /no dispatch named magic/);
  wrong(0, lines[0].replace('[1,2,', '[1,'), /list of 8 factors/);
  wrong(2, '{"step":2', /line 3: is no JSON object/);
  wrong(3, '{"step":3,"load":[[1,2]]}', /line 4: needs a list of loads for each layer/);
  wrong(3, '{"step":3,"load":[[1,2,3,4,5,6,7,-8]]}', /line 4/);
  assert.throws(() => parseTrace('', 'a.jsonl'), /the file is empty/);
  assert.throws(() => parseTrace(lines[0], 'a.jsonl'), /no step follows/);
});

test('outcomeOf gives the rows, drops and spills that the layer reports', async () => {
  const settings: Partial<MoEOptions>[] = [
    { capacity: 1 },
    { capacity: 0.5, dispatch: 'padded' },
    { capacity: [2, 1, 0, 0.25], dispatch: 'padded', overflow: 'spill' },
    { capacity: 1, overflow: 'spill' },
    { capacity: 9, dispatch: 'padded' },
  ];
  for (const own of settings) {
    const model = {
      moe: new MoE({ dModel: 4, experts: 4, topK: 2, hidden: 8, ...own }),
      forward(x: Parameters<MoE['forward']>[0]) {
        return this.moe.forward(x);
      },
    };
    await using session = await compile(model, {
      loss: meanSquaredError,
      optimizer: sgd({ lr: 0.1 }),
      device: 'wasm',
      threads: 1,
      memory: 64e6,
    });
    const { stats } = await session.step({
      x: hostTensor('float32', [32, 4], normals('x', 128)),
      y: hostTensor('float32', [32, 4], normals('y', 128)),
    });
    const list = (name: string): number[] => Array.from(stats[`moe/${name}`]?.data ?? [], Number),
      [layer] = layersOfModel(model),
      found = outcomeOf(model.moe, layer, list('load'));
    assert.deepEqual([found.dropped, found.spilled], [sum(list('dropped')), sum(list('spilled'))], JSON.stringify(own));
    assert.equal(
      found.computed - found.padded,
      64 - found.dropped,
      'rows that are not empty are choices that were kept',
    );
  }
  const [layer] = generate('balanced', { experts: 4, tokens: 8, steps: 1, capacity: 1 }).layers;
  assert.deepEqual(outcomeOf(layer, layer, [8, 4, 4, 0]), { computed: 16, padded: 4, dropped: 4, spilled: 0 });
  assert.deepEqual(outcomeOf({ ...layer, dispatch: 'ragged' }, layer, [8, 4, 4, 0]), {
    computed: 12,
    padded: 0,
    dropped: 4,
    spilled: 0,
  });
  assert.deepEqual(outcomeOf({ ...layer, overflow: 'spill' }, layer, [8, 4, 4, 0]), {
    computed: 20,
    padded: 4,
    dropped: 0,
    spilled: 4,
  });
  assert.deepEqual(outcomeOf({ ...layer, capacity: 'dropless' }, layer, [8, 4, 4, 0]), {
    computed: 32,
    padded: 16,
    dropped: 0,
    spilled: 0,
  });
});

test('the clairvoyant plan costs no more than constant capacities, and changes if that is cheaper', () => {
  // Two experts; in turn one of them gets 12 of 16 tokens, for `period` steps.
  const alternating = (period: number): Trace => ({
    layers: [
      { path: 'moe', experts: 2, k: 1, capacity: 2, overflow: 'drop', dispatch: 'padded', dModel: 4, hidden: 4 },
    ],
    loads: Array.from({ length: 192 }, (_, s) => [Math.floor(s / period) % 2 === 0 ? [12, 4] : [4, 12]]),
  });
  const slow = clairvoyant(alternating(64), PRICES),
    fast = clairvoyant(alternating(1), PRICES);
  assert.deepEqual(
    [slow.recompilations, sum(slow.costs)],
    [3, 192 * 16 + 3 * 2 * 16],
    'no row is empty, and three changes cost two steps each',
  );
  assert.deepEqual([fast.recompilations, sum(fast.costs), fast.constant], [1, 192 * 24 + 32, 192 * 24 + 32]);
  for (const name of ['spread', 'drift', 'burst']) {
    const trace = generate(name, SMALL),
      [layer] = trace.layers,
      best = clairvoyant(trace, PRICES);
    assert.ok(sum(best.costs) <= best.constant + 1e-6);
    for (const capacity of [0.5, 1, 1.5, 2, 3, 4]) {
      const cost = sum(trace.loads.map(([own]) => costOf(outcomeOf({ ...layer, capacity }, layer, own), PRICES)));
      assert.ok(sum(best.costs) <= cost + 2 * 128, `${name} ${capacity}`);
    }
  }
});

test('replay uses the real engine: the same delay before an effect, cooldown and decisions as a run', async () => {
  const trace = generate('spread', { ...SMALL, steps: 320 }),
    none = await replay(trace, []),
    adapted = await replay(trace, [adaptCapacity()]);
  assert.deepEqual([none.recompilations, none.events], [0, []]);
  const [first] = adapted.events;
  assert.deepEqual(
    [first.rule, first.class, first.step, first.effect, first.kept],
    ['adaptCapacity', 'R', 18, 50, true],
  );
  assert.ok(
    adapted.dropped < none.dropped / 2 && adapted.cost < none.cost && adapted.regret < none.regret,
    `${adapted.dropped} ${none.dropped}`,
  );
  assert.ok(adapted.regret >= 0 && adapted.settled >= 0);
  assert.equal(none.choices, 320 * 128);
  const again = await replay(trace, [adaptCapacity()]);
  const withoutTimes = ({ events, ...rest }: typeof again) => ({
    ...rest,
    events: events.map(({ step, effect, changes }) => ({ step, effect, changes })),
  });
  assert.deepEqual(withoutTimes(again), withoutTimes(adapted), 'decisions do not depend on the clock');
});

test('a class N change is tried against the old plan, and kept if it computes fewer rows', async () => {
  const trace = generate('spread', { ...SMALL, steps: 320, overflow: 'spill' }),
    r = await replay(trace, [chooseDispatch()]);
  assert.deepEqual(
    r.events.map((e) => [e.class, e.kept, e.changes[0].to]),
    [['N', true, 'ragged']],
  );
  assert.ok((r.events[0].ratio?.median ?? 0) > 1);
  assert.ok(r.events[0].after.bytes < r.events[0].before.bytes);
  // The time of a step follows from its computed rows. So the opposite change, to padded, is undone.
  const back = await replay({ ...trace, layers: trace.layers.map((l) => ({ ...l, dispatch: 'ragged' as const })) }, [
    {
      name: 'worse',
      trigger: (run) => run.step === 16,
      alter: (m: { moe: MoE }) => {
        m.moe.dispatch = 'padded';
      },
    },
  ]);
  assert.deepEqual([back.recompilations, back.events.map((e) => e.kept)], [0, [false]]);
});

test('traces of several layers: each is put at its path; two layers at one path are refused', async () => {
  const one = generate('hot', { ...SMALL, steps: 100 }),
    two = generate('balanced', { ...SMALL, steps: 100 });
  const trace: Trace = {
    layers: ['blocks.0.moe', 'blocks.1.moe'].map((path) => ({ ...one.layers[0], path })),
    loads: one.loads.map(([own], s) => [own, two.loads[s][0]]),
  };
  const { events } = await replay(trace, [adaptCapacity()]);
  assert.deepEqual(
    events[0].changes.map((c) => c.path),
    ['blocks.0.moe', 'blocks.1.moe'],
  );
  await assert.rejects(
    replay({ ...trace, layers: trace.layers.map((l) => ({ ...l, path: 'moe' })) }, []),
    /no place for a layer at "moe"/,
  );
});

test('a trace that describes no model or no plan is refused by the name of its file', async () => {
  const one = { ...generate('hot', SMALL).layers[0], experts: 2, k: 1, dModel: 4, hidden: 4 };
  const refuse = async (layers: readonly object[], load: readonly number[], what: RegExp): Promise<void> => {
    const trace = { layers: layers.map((layer) => ({ ...one, ...layer })), loads: [layers.map(() => load)] };
    await assert.rejects(
      replay(parseTrace(traceLines(trace), 'a.jsonl'), []),
      (error) => error instanceof UserError && error.message.startsWith('a.jsonl: ') && what.test(error.message),
      JSON.stringify(layers),
    );
  };
  await refuse([{}, {}], [1, 1], /no place for a layer at "moe"/);
  for (const path of ['', '.', '__proto__', 'a.__proto__', '__proto__.a', 'a..b', '\u0000', '\ud800'])
    await refuse([{ path }], [1, 1], /cannot be named/);
  for (const inside of ['topK', 'topK.x', 'active', 'shared.x', 'forward.x', '__proto__.x', 'gate.__proto__.x'])
    await refuse([{}, { path: `moe.${inside}` }], [1, 1], /no place|cannot be named/);
  await refuse([{}, { path: 'moe.experts.w1.x' }], [1, 1], /no place/);
  await refuse([{ dModel: 2 ** 24, hidden: 2 ** 24 }], [1, 1], /562949953421312 elements/);
  await refuse([{ dModel: 64 }], [2 ** 24, 2 ** 24], /2147483648 elements/);
});

test('paths of layers may be names that objects inherit; a layer without tokens needs no memory', async () => {
  const [one] = generate('hot', { ...SMALL, steps: 1 }).layers,
    names = ['constructor', 'toString.a', 'moe', 'moe.gate'];
  for (const dispatch of DISPATCHES) {
    const layers = names.map((path) => ({ ...one, path, dispatch, experts: 4, k: 4 })),
      some = [16, 16, 16, 16],
      none = [0, 0, 0, 1]; // a quarter of a token
    const all = await replay({ layers, loads: [layers.map(() => some)] }, []),
      half = await replay({ layers, loads: [layers.map((_, l) => (l % 2 === 0 ? some : none))] }, []);
    assert.equal(half.bytes, all.bytes / 2);
    assert.equal((await replay({ layers, loads: [layers.map(() => none)] }, [adaptCapacity()])).bytes, 0);
  }
});

test('adaptCapacity costs at most 5% more than the clairvoyant plan if loads are stable or drift', async () => {
  for (const name of ['spread', 'drift']) {
    const { settled } = await replay(generate(name), [adaptCapacity()]);
    assert.ok(settled < 0.05, `${name}: ${settled}`);
  }
});
