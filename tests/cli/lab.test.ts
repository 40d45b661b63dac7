// Tests what dynamoe lab, dynamoe train --trace and dynamoe bench recompile write, and that they agree. Measures no
// times.
import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { measureRecompile, type RecompileFlags } from '../../src/bench/recompile.ts';
import { parseTrace } from '../../src/recompile/lab/trace.ts';
import { traceLog } from '../../src/train/trace-log.ts';
import { temporaryFolder } from '../io/folder.ts';
import { command, eventsOf, TINY, writeText } from './command.ts';

test('train --trace records every load; a resumed run appends to the file; lab replays it', async (t) => {
  const folder = await temporaryFolder(t),
    text = await writeText(folder),
    trace = join(folder, 'trace.jsonl'),
    out = join(folder, 'run');
  const train = async (...flags: string[]) => {
    const ended = await command(
      'train',
      '--data',
      text,
      ...TINY,
      '--device',
      'wasm',
      '--threads',
      '1',
      '--out',
      out,
      '--trace',
      trace,
      '--json',
      ...flags,
    );
    assert.equal(ended.code, 0, ended.stderr);
    return eventsOf(ended.stdout)
      .filter((e) => e.event === 'step')
      .map((e) => Object.values(e['load'] as Record<string, number[]>));
  };
  const loadsOfRun = await train('--steps', '20');
  // Steps after the last checkpoint are trained again when the run is resumed, so their old lines must be removed.
  await writeFile(trace, `${await readFile(trace, 'utf8')}{"step":21,"load":[[9,9,9,9]]}\n{"step":22,"lo`);
  loadsOfRun.push(...(await train('--resume', '--steps', '30')));
  const { layers, loads } = parseTrace(await readFile(trace, 'utf8'), trace);
  assert.deepEqual(loads, loadsOfRun);
  assert.deepEqual(layers, [
    {
      path: 'blocks.0.moe',
      experts: 4,
      k: 2,
      capacity: 'dropless',
      overflow: 'drop',
      dispatch: 'ragged',
      dModel: 16,
      hidden: 16,
    },
  ]);
  const { code, stdout, stderr } = await command(
    'lab',
    trace,
    '--policy',
    'adaptCapacity',
    '--capacity',
    '1',
    '--dispatch',
    'padded',
    '--json',
  );
  assert.equal(code, 0, stderr);
  const result = JSON.parse(stdout.trim().split('\n').at(-1) ?? '') as Record<string, unknown>;
  assert.deepEqual(
    [result['event'], result['steps'], result['choices'], result['policies']],
    ['lab', 30, 30 * 4 * 16 * 2, ['adaptCapacity']],
  );
  for (const key of ['dropped', 'spilled', 'padded', 'computed', 'bytes', 'recompilations', 'regret', 'constant'])
    assert.equal(typeof result[key], 'number', key);
  assert.throws(() => traceLog(trace, {}), /no mixture-of-experts layer/);
  const before = await readFile(trace, 'utf8'),
    again = await command(
      'train',
      '--data',
      text,
      ...TINY,
      '--device',
      'wasm',
      '--threads',
      '1',
      '--out',
      join(folder, 'other'),
      '--trace',
      trace,
      '--json',
    );
  assert.deepEqual([again.code, await readFile(trace, 'utf8')], [1, before]);
  assert.match(again.stderr, /trace\.jsonl exists already/);
});

test('lab --generate writes a trace that lab reads; policies may have options', async (t) => {
  const folder = await temporaryFolder(t),
    path = join(folder, 'trace.jsonl'),
    sizes = ['--steps', '200', '--experts', '8', '--tokens', '64', '--overflow', 'drop'];
  assert.equal((await command('lab', '--generate', 'drift', ...sizes, '--out', path)).code, 0);
  const { code, stderr } = await command('lab', '--generate', 'hot', ...sizes, '--out', path);
  assert.deepEqual([code, /trace\.jsonl: it exists already/.test(stderr)], [1, true], stderr);
  const [read, made] = [
    await command('lab', path, '--policy', 'adaptCapacity,horizon=100,margin=0.1', '--json'),
    await command('lab', '--generate', 'drift', ...sizes, '--policy', 'adaptCapacity,horizon=100,margin=0.1', '--json'),
  ];
  const last = (out: string): string => out.trim().split('\n').at(-1) ?? '';
  assert.equal(last(read.stdout), last(made.stdout));
  assert.ok(eventsOf(read.stdout).some((e) => e.event === 'recompile' && e['class'] === 'R'));
});

test('wrong traces, options and names are refused, and the error names them', async (t) => {
  const folder = await temporaryFolder(t),
    path = join(folder, 'trace.jsonl');
  await writeFile(path, 'nonsense');
  for (const [pattern, code, ...args] of [
    [/needs loads/, 1],
    [/line 1: is no JSON object/, 1, path, '--policy', 'adaptCapacity'],
    [/no option named "q"/, 2, path, '--policy', 'adaptCapacity,q=1'],
    [/Allowed choices/, 2, '--generate', 'magic'],
  ] as const) {
    const ended = await command('lab', ...args);
    assert.equal(ended.code, code, ended.stderr);
    assert.match(ended.stderr, pattern);
  }
});

const BENCH: RecompileFlags = {
  tokens: 64,
  dModel: 16,
  dFf: 16,
  experts: 8,
  topK: 2,
  dispatch: 'padded',
  overflow: 'drop',
  skew: 1,
  drift: 0,
  policy: 'adaptCapacity',
  alphas: [1, 2, 3, 4],
  from: 2,
  warmUp: 64,
  steps: 6,
  every: 2,
  device: 'wasm',
  threads: 1,
};

test('bench recompile: it counts drops like the layer; the policy drops less with fewer bytes', async () => {
  const { rows, verdict, events } = await measureRecompile(BENCH),
    adapted = rows[4];
  assert.deepEqual(
    rows.map((r) => r.plan),
    ['1', '2', '3', '4', 'adaptCapacity'],
  );
  assert.deepEqual([events.length, adapted.recompilations], [1, 1]);
  assert.equal(rows[3].dropped, 0, 'a capacity of four times the even share holds all choices');
  for (let i = 1; i < 4; i++)
    assert.ok(rows[i].dropped <= rows[i - 1].dropped && rows[i].planned_bytes >= rows[i - 1].planned_bytes);
  assert.ok(adapted.dropped < rows[1].dropped, 'fewer drops than with the capacity that the policy started from');
  assert.ok(
    verdict.against !== null && verdict.against > 2 && (verdict.bytes ?? 0) > 1 && (verdict.throughput ?? 0) > 0,
    JSON.stringify(verdict),
  );
  for (const [j, from] of BENCH.alphas.entries()) {
    const { rows: still } = await measureRecompile({ ...BENCH, policy: 'off', from, warmUp: 0, alphas: [from] });
    assert.equal(
      still[1].dropped,
      still[0].dropped,
      `${from}: drops that were counted equal drops that were computed from loads`,
    );
    if (j === 3) assert.equal(still[1].planned_bytes, still[0].planned_bytes);
  }
});

test('bench recompile with experts as modules, and with a load that moves to other experts', async () => {
  const { rows, events } = await measureRecompile({
    ...BENCH,
    modules: true,
    dispatch: 'ragged',
    drift: 50,
    warmUp: 0,
    steps: 120,
    every: 40,
  });
  assert.ok(events.length >= 1 && events.every((e) => e.rule === 'adaptCapacity'), JSON.stringify(events));
  assert.ok(rows.every((r) => r.step_ms > 0 && r.planned_bytes > 0));
});
