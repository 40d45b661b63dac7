// Tests dynamoe bench sorting: the JSON that it writes. Measures no times.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { command } from '../cli/command.ts';

const run = (...flags: readonly string[]): ReturnType<typeof command> =>
  command('bench', 'sorting', '--tokens', '30', '--device', 'wasm', '--rounds', '2', '--json', ...flags);

test('bench sorting writes one JSON object for each program and number of threads', async () => {
  const { code, stdout, stderr } = await run('--experts', '5', '--top-k', '2', '--threads', '1,2');
  assert.equal(code, 0, stderr);
  const results = stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as { event: string; what: string; threads: number; us_best: number; us: number });
  assert.deepEqual(
    results.slice(0, 4).map((r) => [r.event, r.what, r.threads]),
    [
      ['sorting', 'start', 1],
      ['sorting', 'start', 2],
      ['sorting', 'permute', 1],
      ['sorting', 'permute', 2],
    ],
  );
  for (const r of results) assert.ok(r.us_best > 0 && r.us >= r.us_best, r.what);
});

test('bench sorting refuses more choices than experts', async () => {
  const { code, stderr } = await run('--experts', '5', '--top-k', '6');
  assert.notEqual(code, 0);
  assert.match(stderr, /--top-k 6 of --experts 5/);
});
