// Tests bench/compare without its contestants: measuring other processes, refusing figures, the table, the line
// protocol. It measures no times.
import assert from 'node:assert/strict';
import { resolve } from 'node:path';
import { test } from 'node:test';
import {
  family,
  LIMIT,
  othersBetween,
  parseProcess,
  parseStat,
  refusal,
  snapshot,
  type Process,
  type Snapshot,
} from '../../bench/compare/busy.ts';
import { beforeAndAfter, sameLoss, unfitCheckout } from '../../bench/compare/before.ts';
import { capacityTable, largestWithin } from '../../bench/compare/capacity.ts';
import { formatted, titleLines } from '../../bench/compare/markdown.ts';
import { Peer, timed } from '../../bench/compare/protocol.ts';
import { runnerOf } from '../../bench/compare/runners.ts';
import { markdown, rowsOf, type Entry } from '../../bench/compare/table.ts';
import { median } from '../../src/observe/quantile.ts';
import { COMPARISONS } from '../../bench/compare/works.ts';

const process_ = (parent: number, ticks: number, reaped = 0, name = 'p'): Process => ({ name, parent, ticks, reaped });
const at = (ms: number, busy: number, processes: Record<number, Process>): Snapshot => ({
  at: ms,
  busy,
  processes: new Map(Object.entries(processes).map(([pid, p]) => [Number(pid), p])),
});

test('values are read from /proc', () => {
  assert.equal(
    parseStat('cpu  387097 275383 75949 216046 409 3 512 723 9 0\ncpu0 1 1 1 1\n'),
    387097 + 275383 + 75949 + 3 + 512 + 723,
  );
  const line = '12483 (a ) (b) R 12472 12472 3961 0 -1 4194304 101 0 0 0 7 5 3 2 20 0 1 0 479774 3133440 379';
  assert.deepEqual(parseProcess(line), { name: 'a ) (b', parent: 12472, ticks: 12, reaped: 5 });
});

test('processes of the comparison do not count, also if they have ended', () => {
  // The snapshots are 10 s apart. Process 1 is the system, 5 is ours with children 6 and 7 (7 ends, and its 400 ticks
  // go to its parent), 9 is another process.
  const before = at(0, 1000, {
    1: process_(0, 50),
    5: process_(1, 10),
    6: process_(5, 100),
    7: process_(6, 100),
    9: process_(1, 30, 0, 'other'),
  });
  const after = at(10_000, 1000 + 1000 + 450 + 70, {
    1: process_(0, 50),
    5: process_(1, 10),
    6: process_(5, 1100, 550),
    8: process_(6, 0),
    9: process_(1, 100, 0, 'other'),
  });
  assert.deepEqual([...family(5, before.processes)].sort(), [5, 6, 7]);
  const others = othersBetween(before, after, 5);
  assert.equal(others.cores.toFixed(3), '0.070');
  assert.deepEqual(others.worst, [{ pid: 9, name: 'other', cores: 0.07 }]);
  assert.equal(refusal(others), null);
});

test('figures are refused if other work takes more than a tenth of a core, also by processes that have ended', () => {
  assert.equal(LIMIT, 0.1);
  assert.equal(refusal({ cores: 0.1, worst: [] }), null);
  assert.match(
    refusal({ cores: 0.34, worst: [{ pid: 7, name: 'tsc', cores: 0.3 }] }) ?? '',
    /0\.34 cores, more than 0\.1: tsc \(7\) 0\.30/,
  );
  assert.match(refusal({ cores: 1, worst: [] }) ?? '', /cannot be seen/);
  const idle = at(0, 0, { 5: process_(1, 0) });
  assert.notEqual(refusal(othersBetween(idle, at(1000, 50, { 5: process_(1, 0) }), 5)), null);
  assert.equal(refusal(othersBetween(idle, at(1000, 150, { 5: process_(1, 145) }), 5)), null);
});

test(
  'a snapshot of this machine contains this process',
  { skip: process.platform !== 'linux' && 'needs /proc' },
  () => {
    const own = snapshot().processes.get(process.pid);
    assert.equal(own?.parent, process.ppid);
    assert.ok(own.ticks > 0);
  },
);

const entry = (name: string, rounds: number[][], problem: string | null = null): Entry => ({
  name,
  rounds,
  rss: 2e6,
  version: null,
  problem,
});

test('ratios are of medians, ranges are over rounds; contestants are compared with the first one', () => {
  const [a, b] = rowsOf(
    [
      entry('ours', [
        [10, 12, 11],
        [10, 10, 13],
      ]),
      entry('other', [
        [22, 24, 23],
        [30, 31, 29],
      ]),
    ],
    { samples: 100, flops: 2e9 },
    400,
  );
  assert.deepEqual([a.median, a.min, a.max, a.ratio, a.ratioSpread], [10.5, 10, 13, 1, null]);
  assert.equal(a.perSecond, 100_000 / 10.5);
  assert.equal(a.gflops, 2e9 / 10.5 / 1e6);
  assert.equal(a.ofPeak, 2000 / 10.5 / 400);
  assert.deepEqual([b.median, b.ratio, b.ratioSpread], [26.5, 26.5 / 10.5, [23 / 11, 3]]);
  assert.deepEqual([median([3, 1, 2]), median([4, 1, 2, 3])], [2, 2.5]);
});

test('the Markdown table names contestants that did not run, and has no ratios if the first one did not run', () => {
  const text = markdown(
    { title: 'Work', samples: 100, flops: 2e9 },
    [entry('ours', [[10]]), entry('other | one', [[25]]), entry('gone', [], 'not installed')],
    400,
  );
  assert.equal(
    text,
    [
      '### Work',
      '',
      '|  | step, ms: median (min - max) | a second | GFLOP/s | of peak | memory, MB (times ours) | time, times ours ' +
        '(by rounds) |',
      '| --- | ---: | ---: | ---: | ---: | ---: | ---: |',
      '| ours | 10.0 (10.0 - 10.0) | 10000 | 200 | 50% | 2 (1.00) | 1 |',
      '| other \\| one | 25.0 (25.0 - 25.0) | 4000 | 80.0 | 20% | 2 (1.00) | **2.50** (2.50 - 2.50) |',
      '',
      'Not run: gone: not installed.',
      '',
    ].join('\n'),
  );
  const alone = rowsOf([entry('ours', [], 'broken'), entry('other', [[25]])], { samples: 1, flops: null }, null);
  assert.deepEqual(
    alone.map((r) => [r.name, r.ratio, r.gflops, r.ofPeak]),
    [['other', null, null, null]],
  );
});

test('printed Markdown is as Prettier formats it, and no heading is longer than 120 columns', async () => {
  for (const comparison of [...COMPARISONS, ...COMPARISONS.flatMap((c) => beforeAndAfter(c, '.'))]) {
    const text = await formatted(markdown(comparison, [entry('+ ours', [[10]]), entry('gone', [], 'no')], 400));
    assert.equal(await formatted(text), text);
    assert.match(text, /^\| \+ ours /m);
    for (const line of text.split('\n')) assert.ok(line.length <= 120 || line.startsWith('|'), line);
  }
  assert.deepEqual(titleLines('Work: small'), ['### Work: small', '']);
  assert.deepEqual(titleLines(`Work: ${'x'.repeat(120)}`), ['### Work', '', 'x'.repeat(120), '']);
});

test('every comparison starts with DynaMoE, and all names are different', () => {
  assert.equal(new Set(COMPARISONS.map((c) => c.id)).size, COMPARISONS.length);
  for (const { contestants } of COMPARISONS) {
    assert.equal(contestants[0].runner, 'ours');
    assert.equal(new Set(contestants.map((c) => c.name)).size, contestants.length);
  }
});

test('a contestant answers line by line: a layer trains; an error is an answer, too', async () => {
  const command = runnerOf({ runner: 'ours' });
  assert.ok('file' in command);
  const peer = new Peer(command);
  try {
    const work = { kind: 'layer', pass: 'train', tokens: 64, dModel: 16, dFf: 32, experts: 4, topK: 2 } as const;
    assert.match(
      (await peer.ask({ do: 'open', style: 'wasm', work: { ...work, topK: 9 }, threads: 1 })).error ?? '',
      /topK must be/,
    );
    assert.equal((await peer.ask({ do: 'open', style: 'wasm', work, threads: 1 })).error, undefined);
    const { ms, rss, loss } = await peer.ask({ do: 'run', steps: 3 });
    assert.ok(ms?.length === 3 && ms.every((t) => t > 0) && Number(rss) > 0 && Number.isFinite(loss));
  } finally {
    peer.close();
  }
});

test('a process that cannot start or that ends is reported as an answer', async () => {
  for (const file of ['/nowhere/python', process.execPath]) {
    const peer = new Peer({ file, args: ['--eval', 'process.exit(3)'] });
    assert.match((await peer.ask({ do: 'run', steps: 1 })).error ?? '', /its process ended/);
    peer.close();
  }
});

test('the largest number within a budget is found in a few tries if memory is nearly linear', async () => {
  for (const [each, fixed, noise] of [
    [2.1, 60, 0],
    [4.2, 85, 3],
    [0.5, 1, 0.2],
    [300, 200, 10],
  ] as const) {
    let tries = 0;
    const bytesOf = (n: number): Promise<number> => {
      tries++;
      return Promise.resolve(fixed + each * n + noise * Math.sin(n));
    };
    const fit = await largestWithin(1000, 2, bytesOf),
      exact = (1000 - fixed) / each;
    assert.ok(
      fit && fit.bytes <= 1000 && fit.experts <= exact + noise / each && fit.experts >= 0.97 * exact - 1 - noise / each,
      JSON.stringify(fit),
    );
    assert.ok(
      fit.tooMany !== null && fit.tooMany > fit.experts && tries <= 13,
      `${tries} tries, ${JSON.stringify(fit)}`,
    );
  }
  assert.equal(await largestWithin(10, 2, () => Promise.resolve(11)), null);
  assert.equal(await largestWithin(10, 2, () => Promise.resolve(null)), null);
  const failing = await largestWithin(1000, 2, (n) => Promise.resolve(n > 20 ? null : n));
  assert.ok(failing && failing.experts <= 20);
});

test('the table of experts within a budget', () => {
  const who = (name: string) => ({ name, runner: 'ours', style: '' }) as const;
  assert.equal(
    capacityTable({ title: 'Room', budget: 2 ** 20 }, [
      { who: who('ours'), fit: { experts: 30, tooMany: 31, bytes: 1e6 }, problem: null },
      { who: who('other'), fit: { experts: 12, tooMany: null, bytes: 1e6 }, problem: null },
      { who: who('gone'), fit: null, problem: 'not installed' },
    ]),
    [
      '### Room',
      '',
      'Memory above what a process has with its libraries loaded; at most 1 MiB.',
      '',
      '|  | experts | too many | memory, MB | ours over it |',
      '| --- | ---: | ---: | ---: | ---: |',
      '| ours | 30 | 31 | 1 | **1.00** |',
      '| other | 12 |  | 1 | **2.50** |',
      '',
      'Not run: gone: not installed.',
      '',
    ].join('\n'),
  );
});

test('steps run one after the other, and each is timed', async () => {
  let n = 0;
  const { ms, loss } = await timed(() => Promise.resolve(++n), 4);
  assert.deepEqual([ms.length, loss, ms.every((t) => t >= 0)], [4, 4, true]);
});

test('--before: one pair for each of our contestants, run from two checkouts', () => {
  const layer = COMPARISONS[0],
    pairs = beforeAndAfter(layer, 'elsewhere');
  assert.equal(pairs.length, layer.contestants.filter((c) => c.runner === 'ours').length);
  for (const {
    contestants: [now, before],
    work,
  } of pairs) {
    assert.equal(work, layer.work);
    assert.deepEqual([now.folder, before.folder, before.style], [undefined, resolve('elsewhere'), now.style]);
    const command = runnerOf(before);
    assert.ok('file' in command && command.args.some((arg) => arg.startsWith(resolve('elsewhere'))));
  }
  assert.match(unfitCheckout('elsewhere') ?? '', /elsewhere is no checkout of this project/);
  assert.equal(unfitCheckout('.'), null);
});

test('--before: losses are compared to the last bit', () => {
  const pair = (a: number | null, b: number | null): string =>
    sameLoss([
      { ...entry('now', [[1]]), loss: a },
      { ...entry('before', [[1]]), loss: b },
    ]);
  assert.match(pair(1.25, 1.25), /is the same: 1\.25/);
  assert.match(pair(1.25, 1.2500000000000002), /differs/);
  assert.match(pair(1.25, null), /not compared/);
});
