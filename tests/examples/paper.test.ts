// Tests examples/paper with a small model and generated data: every row and every column exists, and has plausible
// values.
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { formatted } from '../../bench/compare/markdown.ts';
import { contest, type Result } from '../../examples/paper/contest.ts';
import { Classifier, languageModel, skewed, WideLayer, type LayerSettings } from '../../examples/paper/models.ts';
import { paper, type PaperFlags } from '../../examples/paper/paper.ts';
import type { PaperEvent, Reporter } from '../../examples/paper/progress.ts';
import { compareRows, comparisons, failed, spread, summaries } from '../../examples/paper/results.ts';
import { ADAPT, DEFAULT, ROWS, type Row } from '../../examples/paper/rows.ts';
import { byRank, EPOCHS, firstSteps, handWritten, NOTICE, PUBLISHED } from '../../examples/paper/schedule.ts';
import { teacher, type Source } from '../../examples/paper/sources.ts';
import { WORKLOADS, type Workload } from '../../examples/paper/workloads.ts';
import { UserError } from '../../src/base/errors.ts';
import { hostTensor } from '../../src/base/tensor.ts';
import { meanSquaredError } from '../../src/nn/loss.ts';
import { sgd } from '../../src/optim/sgd.ts';
import { POLICY_NAMES } from '../../src/recompile/policies/select.ts';
import type { Rule } from '../../src/recompile/rule.ts';
import { compile } from '../../src/session/node.ts';

const STEPS = 300,
  EXPERTS = 8,
  SIZE = 32;

/** A narrow version of the wide layer, with 8 experts, for which the schedule exists. */
const tiny: Workload = {
  id: 'tiny',
  title: 'Tiny',
  unit: 'samples',
  units: SIZE,
  experts: EXPERTS,
  recurs: true,
  usual: { seeds: 2, steps: STEPS },
  full: { seeds: 2, steps: STEPS },
  slice: 20,
  rates: [0.1],
  accuracy: false,
  loss: meanSquaredError,
  source: () => teacher({ width: 8, hidden: 4, size: SIZE, train: 4 * SIZE, held: 2 * SIZE }),
  model: (layer) => new WideLayer({ width: 8, hidden: 8, experts: EXPERTS }, layer),
  optimizer: (lr) => sgd({ lr }),
  begin: ({ executor }) => {
    executor.setState('moe.router.bias', { dtype: 'float32', shape: [EXPERTS] }, skewed(EXPERTS, 0.7));
  },
};

function heard(): { reporter: Reporter; events: PaperEvent[]; said: string[] } {
  const events: PaperEvent[] = [],
    said: string[] = [];
  return {
    events,
    said,
    reporter: {
      tell: (event) => {
        events.push(event);
      },
      say: (line) => {
        said.push(line);
      },
      close: () => undefined,
    },
  };
}

async function inFolder<T>(work: (folder: string) => Promise<T>): Promise<T> {
  const folder = await mkdtemp(join(tmpdir(), 'dynamoe-paper-'));
  try {
    return await work(folder);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

const flagsOf = (out: string, more: Partial<PaperFlags> = {}): PaperFlags => ({
  data: [],
  scale: 1,
  out,
  device: 'wasm',
  threads: 1,
  ...more,
});
const never = new AbortController().signal;

test('an evaluation between a decision and its first step does not take the decision back', async () => {
  // The default row is slow, so the other row does more steps. It is evaluated after step 70, between its second
  // decision and the first step with that change (95), when its settings are already those of a rule.
  const slow: Rule<object> = {
    name: 'slow',
    trigger: () => {
      for (const end = performance.now() + 20; performance.now() < end;);
      return false;
    },
    alter: () => undefined,
  };
  const rows = ROWS.flatMap((row): Row[] =>
    row.name === DEFAULT
      ? [{ ...row, rules: () => [slow] }]
      : row.id === 'schedule'
        ? [{ ...row, rules: () => [handWritten(100)] }]
        : [],
  );
  const results = await contest({
    workload: tiny,
    rows,
    source: await tiny.source([]),
    seed: 1,
    steps: 70,
    rate: 0.1,
    turnMs: 100,
    device: 'wasm',
    threads: 1,
    stop: never,
    progress: () => undefined,
  });
  const [schedule] = (results ?? []).flatMap((r) => (failed(r) || r.row === DEFAULT ? [] : [r]));
  assert.ok(schedule.equalSteps.steps === 70 && schedule.equalTime.steps > 95, `${schedule.equalTime.steps} steps`);
  assert.deepEqual(
    schedule.decisions.map((d) => [d.kept, d.effect, d.error]),
    [
      [true, 35, undefined],
      [true, 95, undefined],
    ],
  );
});

test('every row runs, and all columns have plausible numbers', async () => {
  await inFolder(async (folder) => {
    const { reporter, events } = heard(),
      [table] = await paper(flagsOf(join(folder, 'out')), reporter, never, [tiny]);
    const results = events.flatMap((e) => (e.event === 'result' ? [e] : [])).flatMap((e) => (failed(e) ? [] : [e])),
      there = ROWS.filter((r) => r.absent({ ...tiny, steps: STEPS }) === null);
    assert.deepEqual(
      events.filter((e) => e.event === 'skipped').map((e) => e.row),
      ROWS.filter((r) => !there.includes(r)).map(({ name }) => name),
    );
    for (const seed of [1, 2])
      assert.deepEqual(
        results.filter((r) => r.seed === seed).map((r) => r.row),
        there.map(({ name }) => name),
      );
    for (const r of results) {
      for (const n of [
        r.rate,
        r.ms,
        r.stateBytes,
        r.planBytes.most,
        r.planBytes.last,
        r.equalSteps.loss,
        r.equalSteps.undropped,
        r.equalTime.loss,
        r.equalTime.undropped,
      ])
        assert.ok(Number.isFinite(n) && n > 0, JSON.stringify(r));
      assert.equal(r.equalSteps.steps, STEPS);
      assert.ok(r.equalTime.steps > 0 && r.planBytes.last <= r.planBytes.most);
    }
    const of = (name: string): Result[] => results.filter((r) => r.row === name),
      share = (name: string): number => spread(of(name).map((r) => r.dropped)).median;
    // The default drops nothing. A larger fixed factor drops less, and plans more memory.
    for (const r of of(DEFAULT))
      assert.ok(
        r.dropped === 0 &&
          r.equalSteps.undropped === r.equalSteps.loss &&
          r.equalTime.steps === STEPS &&
          r.decisions.length === 0,
      );
    const alphas = ['alpha 1', 'alpha 1.25', 'alpha 2', 'alpha 4'];
    for (let i = 1; i < alphas.length; i++) {
      assert.ok(
        share(alphas[i - 1]) > share(alphas[i]),
        `${alphas[i]} drops ${share(alphas[i])}, ${alphas[i - 1]} ${share(alphas[i - 1])}`,
      );
    }
    const [one, , two, four] = alphas.map((name) => of(name)[0].planBytes.most);
    assert.ok(one < two && two < four, `${one}, ${two}, ${four}`);
    // The capacities that the policy and the schedule set.
    for (const r of of(ADAPT)) assert.ok(r.decisions.some((d) => d.kept) && r.dropped < share('alpha 1'));
    for (const { decisions } of of('schedule by hand')) {
      assert.deepEqual(
        decisions.map((d) => [d.kept, d.effect]),
        firstSteps(STEPS).map((step) => [true, step]),
      );
      decisions.forEach((d, i) => {
        const [{ knob, to }] = d.changes,
          factors = to as readonly number[];
        assert.equal(knob, 'capacity');
        assert.deepEqual([...factors].sort(), [...PUBLISHED[i].factors].sort());
        assert.equal(factors[0], Math.max(...factors), 'the busiest expert has the largest factor');
      });
    }
    // The document contains all rows, and the log contains as many results.
    for (const { name } of there) assert.ok(table.includes(`| ${name} `), name);
    assert.ok(table.split('\n').every((line) => line.length <= 120 || line.startsWith('|')));
    assert.equal(await formatted(table), table, 'Prettier changes nothing');
    assert.match(table, /^- `\+ sparsify` against /m);
    const grids = table
      .split('\n\n')
      .filter((part) => part.startsWith('|'))
      .map((part) => part.split('\n'));
    assert.deepEqual(
      grids.map(({ length }) => length),
      [there.length + 2, there.length + 2],
    );
    for (const lines of grids)
      for (const line of lines)
        assert.ok(line.split('|').length === lines[0].split('|').length && !/NaN|undefined|Infinity/.test(line), line);
    assert.ok((await readFile(join(folder, 'out/results.md'), 'utf8')).includes(table));
    const logged = (await readFile(join(folder, 'out/results.jsonl'), 'utf8'))
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as PaperEvent);
    assert.deepEqual(
      logged.filter((e) => e.event === 'result'),
      JSON.parse(JSON.stringify(results)),
    );
    // Every comparison exists.
    const found = comparisons(results);
    for (const b of [...alphas, 'schedule by hand'])
      assert.ok(found.some((d) => d.a === ADAPT && d.b === b) && found.some((d) => d.a === DEFAULT && d.b === b), b);
  });
});

test('a run that is stopped keeps the results of finished seeds', async () => {
  await inFolder(async (folder) => {
    const stop = new AbortController(),
      { reporter, events } = heard(),
      told = reporter.tell;
    const tables = await paper(
      flagsOf(folder, { rows: ['alpha-1'], seeds: 3, scale: 0.2 }),
      {
        ...reporter,
        tell: (e) => {
          told(e);
          if (e.event === 'progress' && e.seed === 2 && e.share > 0.4) stop.abort();
        },
      },
      stop.signal,
      [tiny],
    );
    assert.deepEqual(
      events.flatMap((e) => (e.event === 'result' ? [e.seed] : [])),
      [1, 1],
    );
    assert.match(tables[0], /60 steps, learning rate 0\.1, 1 seed:/);
    assert.equal(events.at(-1)?.event, 'table');
  });
});

test('rows and workloads that cannot run are reported by name', async () => {
  const { reporter, events } = heard();
  await assert.rejects(
    paper(flagsOf('unused', { only: ['mlp'] }), reporter, never, WORKLOADS),
    (e) => e instanceof UserError && /^mlp: it needs the MNIST digits\n.*--data FOLDER/.test(e.message),
  );
  await assert.rejects(
    paper(
      flagsOf('unused'),
      reporter,
      never,
      WORKLOADS.filter(({ id }) => id === 'lm' || id === 'cnn'),
    ),
    /nothing of what was asked for can be run/,
  );
  assert.deepEqual(
    events.map((e) => (e.event === 'skipped' ? e.workload : '')),
    ['cnn', 'lm'],
  );
  const absent = (id: string, about = { experts: 8, recurs: true, steps: 1 }): string | null =>
    ROWS.find((r) => r.id === id)?.absent(about) ?? null;
  assert.equal(absent('schedule'), null);
  assert.match(absent('schedule', { experts: 5, recurs: true, steps: 1 }) ?? '', /8 experts/);
  assert.match(
    absent('cacheAssignments', { experts: 8, recurs: false, steps: 1 }) ?? '',
    POLICY_NAMES.includes('cacheAssignments') ? /do not come again/ : /no policy named cacheAssignments/,
  );
});

test('steps are reduced to fit into the given minutes, or an error says that this is impossible', async () => {
  const of = async (more: Partial<PaperFlags>): Promise<{ steps: number; seconds: number }> => {
    const { reporter, events } = heard();
    assert.deepEqual(await paper(flagsOf('unused', { plan: true, ...more }), reporter, never, [tiny]), []);
    const [plan] = events.flatMap((e) => (e.event === 'plan' ? [e] : []));
    return plan;
  };
  assert.equal((await of({ minutes: 1000 })).steps, STEPS);
  const { steps, seconds } = await of({ minutes: 2, scale: 1e6 }); // hours
  assert.ok(steps > 1 && steps < STEPS * 1e6 && Math.abs(seconds - 120) < 5, `${steps} steps, ${seconds} s`);
  await assert.rejects(of({ minutes: 1e-9 }), /1e-9 minutes are too few: opening and measuring alone take/);
});

test('an error in a row ends only this row', async () => {
  const source = await tiny.source([]),
    poisoned: Source = {
      ...source,
      batch: async (seed, step) => {
        const batch = await source.batch(seed, step);
        return step === 60
          ? { ...batch, y: hostTensor('float32', batch.y.shape, new Float32Array(batch.y.data.length).fill(NaN)) }
          : batch;
      },
    };
  const run = (from: Source, steps: number) =>
    contest({
      workload: tiny,
      rows: ROWS.filter(({ id }) => id === 'default'),
      source: from,
      seed: 1,
      steps,
      rate: 0.1,
      turnMs: 5,
      device: 'wasm',
      threads: 1,
      stop: never,
      progress: () => undefined,
    });
  const [row] = (await run(poisoned, 80)) ?? [];
  assert.ok(failed(row) && row.row === DEFAULT && /step 61: the loss is not finite/.test(row.error));
  const [fine] = (await run(poisoned, 40)) ?? [];
  assert.ok(!failed(fine));
});

test('the schedule sets the right capacities at the right steps', () => {
  assert.deepEqual(firstSteps(EPOCHS * 10), [601, 4701]);
  for (const { factors } of PUBLISHED)
    assert.ok(Math.abs(factors.reduce((a, b) => a + b) - factors.length) < 0.05, 'on average 1');
  assert.deepEqual(byRank([0.5, 2, 1], [10, 30, 20]), [0.5, 2, 1]);
  assert.deepEqual(byRank([0.5, 2, 1], [30, 10, 10]), [2, 1, 0.5]);
  assert.equal(handWritten(1000).cooldown, 0);
  assert.ok(NOTICE === 32 && PUBLISHED[0].factors.length === 8);
});

test('medians, ranges and comparisons of rows', () => {
  assert.deepEqual(spread([3, 1, 2]), { median: 2, least: 1, most: 3 });
  assert.deepEqual(spread([4, 1]), { median: 2.5, least: 1, most: 4 });
  const result = (row: string, seed: number, loss: number, rate: number): Result => {
    const quality = { steps: 10, loss, undropped: loss, accuracy: null };
    return {
      row,
      seed,
      rate,
      ms: 1,
      dropped: 0,
      stateBytes: 8,
      planBytes: { most: 8, last: 8 },
      equalSteps: quality,
      equalTime: quality,
      decisions: [],
    };
  };
  const results = [
    result('alpha 1', 1, 2, 10),
    result('alpha 1', 2, 3, 10),
    result(DEFAULT, 1, 1, 20),
    result(DEFAULT, 2, 3.5, 30),
    { row: DEFAULT, seed: 3, error: 'it broke' },
  ];
  assert.deepEqual(compareRows(results, DEFAULT, 'alpha 1'), {
    a: DEFAULT,
    b: 'alpha 1',
    seeds: 2,
    wins: 1,
    lossAtTime: { median: -0.25, least: -1, most: 0.5 },
    lossAtSteps: { median: -0.25, least: -1, most: 0.5 },
    speed: { median: 2.5, least: 2, most: 3 },
  });
  assert.deepEqual(
    summaries(results).map((s) => [s.row, s.seeds, s.rate.median]),
    [
      ['alpha 1', 2, 10],
      [DEFAULT, 2, 25],
    ],
  );
});

test('the models accept the data of the workloads, with the settings of every row', async () => {
  const layers: LayerSettings[] = [
    { dispatch: 'padded', capacity: 1 },
    { dispatch: 'ragged', capacity: 'dropless' },
  ];
  const x = hostTensor(
      'float32',
      [4, 784],
      Float32Array.from({ length: 4 * 784 }, (_, i) => Math.sin(i)),
    ),
    text = hostTensor('int32', [1, 64], new Int32Array(64).fill(7));
  for (const layer of layers) {
    for (const kind of ['dense', 'conv'] as const) {
      await using session = await compile(new Classifier({ experts: 5, kind, lambda: 0.04 }, layer), {
        loss: meanSquaredError,
        device: 'wasm',
        threads: 1,
      });
      assert.deepEqual((await session.predict(x)).shape, [4, 10]);
    }
    await using session = await compile(languageModel(layer), { loss: meanSquaredError, device: 'wasm', threads: 1 });
    assert.deepEqual((await session.predict(text)).shape, [1, 64, 256]);
  }
});
