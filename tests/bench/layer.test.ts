// Tests dynamoe bench layer and memory: flags, the JSON that they write, and how useful FLOPs are counted. Measures no
// times.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { capacityOf } from '../../src/cli/flags.ts';
import { largestThatFits } from '../../src/bench/memory.ts';
import { pointsOf } from '../../src/bench/scaling.ts';
import { ofRoofline } from '../../src/bench/kernel-times.ts';
import {
  LayerBench,
  layerGraph,
  layerOf,
  productsGraph,
  usefulFlops,
  type LayerWork,
} from '../../src/bench/layer-work.ts';
import { parseStatus } from '../../src/bench/resident.ts';
import { sgd } from '../../src/optim/sgd.ts';
import { compileGraph } from '../../src/pipeline.ts';
import { command } from '../cli/command.ts';

const TINY: LayerWork = {
  tokens: 64,
  dModel: 16,
  dFf: 32,
  experts: 4,
  topK: 2,
  capacity: 'dropless',
  overflow: 'drop',
  dispatch: 'ragged',
  skew: 0,
  activation: 'relu',
  optimizer: 'sgd',
  eager: false,
  pass: 'train',
};
const SIZES = ['--tokens', '64', '--d-model', '16', '--d-ff', '32', '--experts', '4', '--top-k', '2'];
const quiet = { device: 'wasm', threads: 1, say: () => undefined } as const;

test('bench layer writes one JSON object with all numbers', async () => {
  const { code, stdout, stderr } = await command(
    'bench',
    'layer',
    ...SIZES,
    '--steps',
    '1',
    '--threads',
    '1',
    '--device',
    'wasm',
    '--optimizer',
    'adam',
    '--json',
  );
  assert.equal(code, 0, stderr);
  assert.equal(stdout.trim().split('\n').length, 1);
  const r = JSON.parse(stdout) as Record<string, unknown>,
    step = r['step_ms'] as Record<string, number>,
    peak = r['peak_bytes'] as Record<string, number>;
  assert.equal(r['event'], 'layer');
  assert.deepEqual(
    [
      r['tokens'],
      r['dModel'],
      r['dFf'],
      r['experts'],
      r['topK'],
      r['capacity'],
      r['dispatch'],
      r['skew'],
      r['optimizer'],
      r['pass'],
      r['device'],
      r['threads'],
      r['steps'],
    ],
    [64, 16, 32, 4, 2, 'dropless', 'ragged', 0, 'adam', 'train', 'wasm', 1, 1],
  );
  assert.ok(step['min'] > 0 && step['min'] <= step['median'] && step['median'] <= step['max'], stdout);
  assert.equal(r['tokens_per_s'], 64_000 / step['median']);
  assert.equal(r['useful_gflops'], (12 * 64 * 2 * 16 * 32) / step['median'] / 1e6);
  assert.ok(r['fma_peak_gflops'] === null || Number(r['fma_peak_gflops']) > 0);
  // The plan needs at least the weights and two moments of each.
  assert.ok(peak['planned'] > 3 * 4 * (4 * 2 * 16 * 32 + 16 * 4), stdout);
  assert.ok(
    peak['rss'] >= 0 && Number(r['compile_ms']) > 0 && Number.isFinite(r['loss']) && r['dropped'] === 0,
    stdout,
  );
  assert.equal(
    (r['load'] as number[]).reduce((a, b) => a + b),
    128,
  );
});

test('recomputing hidden values, in chunks, plans less memory and gives the same bits of the loss', async () => {
  const run = async (...flags: string[]): Promise<{ planned: number; loss: number }> => {
    const { code, stdout, stderr } = await command(
      'bench',
      'layer',
      '--tokens',
      '1024',
      '--d-model',
      '16',
      '--d-ff',
      '256',
      '--experts',
      '4',
      '--dispatch',
      'padded',
      '--capacity-factor',
      '2',
      '--steps',
      '1',
      '--threads',
      '1',
      '--device',
      'wasm',
      '--json',
      ...flags,
    );
    assert.equal(code, 0, stderr);
    const { peak_bytes, loss } = JSON.parse(stdout) as { peak_bytes: { planned: number }; loss: number };
    return { planned: peak_bytes.planned, loss };
  };
  const plain = await run(),
    again = await run('--recompute'),
    chunks = await run('--chunks', '4');
  assert.deepEqual([again.loss, chunks.loss], [plain.loss, plain.loss]);
  assert.ok(
    again.planned <= plain.planned && chunks.planned < 0.7 * plain.planned,
    [plain, again, chunks].map((r) => r.planned).join(),
  );
  assert.match(
    (await command('bench', 'layer', ...SIZES.slice(0, 6), '--experts', '0', '--chunks', '2')).stderr,
    /dense network has no experts/,
  );
});

test('flags that do not fit together are refused', async () => {
  for (const [pattern, ...flags] of [
    [/whole number/, '--tokens', '0'],
    [/Allowed choices/, '--dispatch', 'magic'],
    [/Allowed choices/, '--overflow', 'lose'],
    [/number above 0/, '--capacity-factor', '-1'],
    [/Allowed choices/, '--optimizer', 'lion'],
    [/number of at least 0/, '--skew', '-1'],
    [/Allowed choices/, '--pass', 'backward'],
    [/Allowed choices/, '--device', 'reference'],
  ] as const) {
    const ended = await command('bench', 'layer', ...flags);
    assert.equal(ended.code, 2, ended.stderr);
    assert.match(ended.stderr, pattern);
  }
  const { code, stderr } = await command('bench', 'layer', ...SIZES, '--top-k', '5');
  assert.equal(code, 1);
  assert.match(stderr, /topK must be from 1 to the number of experts/);
  assert.match((await command('bench', 'memory', '--most', '8')).stderr, /--budget/);
  assert.equal(capacityOf('dropless'), 'dropless');
  assert.equal(capacityOf('1.25'), 1.25);
});

test('useful FLOPs per row: 4 d ff forward, 12 d ff in training, SwiGLU 6 and 18; the products do as many', () => {
  for (const [activation, pass, each] of [
    ['relu', 'forward', 4],
    ['relu', 'train', 12],
    ['gelu', 'train', 12],
    ['swiglu', 'forward', 6],
    ['swiglu', 'train', 18],
  ] as const) {
    const work = { ...TINY, activation, pass };
    assert.equal(usefulFlops(work, 100), each * 16 * 32 * 100);
    for (const eager of [false, true]) {
      const { program } = compileGraph(layerGraph(layerOf(work), work, sgd({ lr: 1e-3, eager })));
      const flops = program.steps
        .filter((s) => s.ops.some((op) => op.startsWith('grouped')))
        .reduce((n, s) => n + s.flops, 0);
      assert.equal(flops, usefulFlops(work, 64 * 2), `${activation} ${pass}: every product is counted once`);
    }
  }
});

test('a training step computes the gradient of the input on the device, and trains', async () => {
  for (const eager of [false, true]) {
    const layer = await LayerBench.open({ ...TINY, eager }, quiet);
    try {
      const losses: number[] = [];
      for (let i = 0; i < 5; i++) losses.push((await layer.step()).loss);
      const gradient = layer.executor.peekState('x.grad').data;
      assert.ok(gradient.every((g) => Number.isFinite(g)) && gradient.some((g) => g !== 0));
      assert.ok(losses[4] < losses[0], losses.join());
      assert.ok(
        layer.executor.peekState('x').data.every((v) => v !== 0),
        'the input is random and has no zeros',
      );
    } finally {
      await layer.close();
    }
  }
});

test('with skew, loads fall from expert to expert; 0 experts is a dense network with the same FLOPs', async () => {
  const load = async (work: LayerWork): Promise<readonly number[]> => {
    const layer = await LayerBench.open(work, quiet);
    try {
      return (await layer.step()).load;
    } finally {
      await layer.close();
    }
  };
  const even = await load({ ...TINY, tokens: 512, pass: 'forward' }),
    skewed = await load({ ...TINY, tokens: 512, skew: 2, pass: 'forward' });
  assert.ok(skewed[0] > 1.3 * even[0] && skewed[0] > 3 * skewed[3], `${even.join()} ${skewed.join()}`);
  assert.deepEqual(await load({ ...TINY, experts: 0 }), []);
  const dense = layerOf({ ...TINY, experts: 0, activation: 'swiglu' }),
    { program } = compileGraph(layerGraph(dense, { ...TINY, experts: 0, activation: 'swiglu' }, sgd({ lr: 1e-3 })));
  assert.equal(
    program.steps.filter((s) => s.ops.includes('matmul')).reduce((n, s) => n + s.flops, 0),
    usefulFlops({ ...TINY, activation: 'swiglu' }, 128),
  );
});

test('with capacity factors choices are dropped, and FLOPs count only kept ones; every dispatch trains', async () => {
  for (const dispatch of ['ragged', 'padded', 'einsum', 'dense'] as const) {
    for (const capacity of dispatch === 'dense' ? ['dropless' as const] : ['dropless' as const, 0.5]) {
      const layer = await LayerBench.open({ ...TINY, dispatch, capacity }, quiet);
      try {
        const { kept, loss } = await layer.step();
        // Each of the four experts takes half of its even share: at most 64 of the 128 choices are kept.
        assert.ok(
          Number.isFinite(loss) && (capacity === 'dropless' ? kept === 128 : kept <= 64 && kept > 32),
          `${dispatch} ${capacity}: ${kept}`,
        );
      } finally {
        await layer.close();
      }
    }
  }
});

test('with spilling nothing is dropped, and the loss is the same', async () => {
  const trained = async (work: LayerWork): Promise<[number, number[]]> => {
    const layer = await LayerBench.open(work, quiet),
      losses: number[] = [];
    try {
      let kept = 0;
      for (let i = 0; i < 3; i++) {
        const step = await layer.step();
        losses.push(step.loss);
        kept = step.kept;
      }
      return [kept, losses];
    } finally {
      await layer.close();
    }
  };
  assert.deepEqual(await trained({ ...TINY, capacity: 0.5, overflow: 'spill' }), await trained(TINY));
});

test('the search finds the largest number that fits', async () => {
  for (const [least, most, largest] of [
    [2, 4096, 77],
    [2, 4096, 2],
    [1, 64, 64],
    [3, 5, 4],
    [8, 8, 8],
  ]) {
    const tried: number[] = [];
    assert.equal(
      await largestThatFits(least, most, async (n) => {
        tried.push(n);
        return n <= largest;
      }),
      largest,
    );
    assert.equal(new Set(tried).size, tried.length, 'no number is tried twice');
    assert.ok(tried.every((n) => n >= least && n <= most) && tried.length < 20, tried.join());
  }
  assert.equal(await largestThatFits(2, 10, async () => false), null);
});

test('bench memory finds the largest number of experts, each tried in its own process', async () => {
  const { code, stdout, stderr } = await command(
    'bench',
    'memory',
    '--tokens',
    '8',
    '--d-model',
    '8',
    '--d-ff',
    '8',
    '--budget',
    '2000',
    '--most',
    '3',
    '--steps',
    '1',
    '--device',
    'wasm',
    '--threads',
    '1',
    '--json',
  );
  assert.equal(code, 0, stderr);
  const r = JSON.parse(stdout) as {
    event: string;
    experts: number;
    budget_bytes: number;
    trials: { experts: number; fits: boolean; peak_bytes: { rss: number } }[];
  };
  assert.deepEqual(
    [r.event, r.experts, r.budget_bytes, r.trials.map((t) => t.experts)],
    ['memory', 3, 2000 * 2 ** 20, [2, 3]],
  );
  assert.ok(r.trials.every((t) => t.fits && t.peak_bytes.rss <= r.budget_bytes));
});

test('resident memory is parsed from the text of the system', () => {
  assert.deepEqual(parseStatus('Name:\tnode\nVmHWM:\t   2000 kB\nVmRSS:\t    1000 kB\n'), {
    now: 1_024_000,
    peak: 2_048_000,
  });
  assert.equal(parseStatus('Name:\tnode\n'), null);
});

test('--products and --profile measure the products alone, and each kernel', async () => {
  const { code, stdout, stderr } = await command(
    'bench',
    'layer',
    ...SIZES,
    '--steps',
    '1',
    '--threads',
    '1',
    '--device',
    'wasm',
    '--products',
    '--profile',
    '--json',
  );
  assert.equal(code, 0, stderr);
  const r = JSON.parse(stdout) as {
    products_ms: { median: number };
    kernels: { ops: string; ns: number; flops: number; bytes: number }[];
  };
  assert.ok(r.products_ms.median > 0);
  const products = r.kernels.filter((k) => k.ops.includes('grouped'));
  assert.equal(
    products.reduce((n, k) => n + k.flops, 0),
    12 * 64 * 2 * 16 * 32,
  );
  assert.ok(
    r.kernels.every((k) => k.ns >= 0 && k.bytes > 0),
    stdout,
  );
  for (const pass of ['train', 'forward'] as const) {
    const { program } = compileGraph(productsGraph({ ...TINY, pass }));
    assert.equal(
      program.steps.filter((s) => s.ops.includes('matmul')).reduce((n, s) => n + s.flops, 0),
      usefulFlops({ ...TINY, pass }, 64 * 2),
    );
  }
});

test('the roofline is the nearer of two limits, as a share of the time', () => {
  const limits = { gflops: 100, gbs: 10 };
  assert.equal(ofRoofline({ ns: 10, flops: 500, bytes: 1 }, limits), 0.5);
  assert.equal(ofRoofline({ ns: 10, flops: 1, bytes: 80 }, limits), 0.8);
});

test('curves vary one size at a time in powers of 2; one expert is a dense network of the same active FLOPs', () => {
  assert.deepEqual(
    pointsOf('tokens', 2).map((p) => p.work.tokens),
    [64, 128, 256, 512, 1024, 2048, 4096, 8192],
  );
  assert.deepEqual(
    pointsOf('experts', 2).map((p) => [p.at, p.work.experts]),
    [
      [1, 0],
      [2, 2],
      [4, 4],
      [8, 8],
      [16, 16],
      [32, 32],
      [64, 64],
      [128, 128],
      [256, 256],
    ],
  );
  assert.deepEqual(
    pointsOf('width', 2).map((p) => [p.work.dModel, p.work.dFf]),
    [
      [64, 256],
      [128, 512],
      [256, 1024],
      [512, 2048],
      [1024, 4096],
    ],
  );
  assert.deepEqual(
    pointsOf('threads', 2).map((p) => p.threads),
    [1, 2],
  );
  for (const { work } of pointsOf('experts', 1))
    assert.equal(usefulFlops(work, work.tokens * work.topK), 12 * 2048 * 2 * 256 * 1024);
});
