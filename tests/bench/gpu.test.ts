// The check on a GPU (bench/gpu), on the stand-in for libcuda: its parts run from end to end, results are kept and not
// computed again, and a failure is reported. What it compares with is what the native device computes now.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { GROUPS } from '../../bench/gpu/cases.ts';
import { casesOnCpu, readExpected } from '../../bench/gpu/expected.ts';
import { PARTS } from '../../bench/gpu/parts.ts';
import { noCompiler } from '../support/toy.ts';
import { noStandin } from '../support/cuda/standin.ts';
import { temporaryFolder } from '../io/folder.ts';

const full = Boolean(process.env['DYNAMOE_FULL']),
  RUN = join(import.meta.dirname, '..', '..', 'bench', 'gpu', 'run.ts');

function run(
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
): { readonly status: number | null; readonly stdout: string; readonly stderr: string } {
  return spawnSync(process.execPath, ['--conditions=dynamoe-source', RUN, ...args], {
    encoding: 'utf8',
    env: { ...process.env, ...env },
  });
}

test('the parts run on the stand-in; what has passed is not run again', { skip: noStandin }, async (t) => {
  const out = await temporaryFolder(t),
    names = full ? PARTS.map(({ name }) => name) : ['probe', 'products', 'sanitizer'],
    only = names.flatMap((name) => ['--only', name]);
  const first = run(['--stand-in', '--out', out, ...only]);
  assert.equal(first.status, 0, first.stdout + first.stderr);
  for (const name of names)
    assert.match(first.stdout, new RegExp(`^[AB] ${name}: ${name === 'sanitizer' ? 'skipped' : 'passed'}, `, 'm'));
  const [hash] = readdirSync(out),
    lines = readFileSync(join(out, hash, 'products.jsonl'), 'utf8')
      .trim()
      .split('\n');
  assert.ok(lines.length > 30);
  assert.equal((JSON.parse(lines.at(-1) ?? '') as { end: string }).end, 'passed');
  const again = run(['--stand-in', '--out', out, '--only', 'products']);
  assert.match(again.stdout, /^A products: passed before, /m);
});

test('a part that fails is reported with its reason, and the run fails', { skip: noStandin }, async (t) => {
  const out = await temporaryFolder(t),
    { status, stdout } = run(['--stand-in', '--out', out, '--only', 'probe', '--json'], {
      DYNAMOE_STANDIN_FAIL: 'cuMemHostAlloc:1',
    });
  assert.equal(status, 1);
  const end = JSON.parse(stdout.trim().split('\n').at(-1) ?? '') as { part: string; end: string; why: string };
  assert.deepEqual([end.part, end.end], ['probe', 'failed']);
  assert.match(end.why, /cuMemHostAlloc/);
});

test('wrong arguments are refused by name, and the parts of a stage fit into 5 minutes', () => {
  assert.match(run(['--only', 'nothing']).stderr, /there is no part nothing; the parts are probe, conformance/);
  assert.match(run(['--stage', 'C']).stderr, /there is no stage C/);
  assert.match(run(['--sage', 'A']).stderr, /--sage/);
  for (const stage of ['A', 'B'])
    assert.ok(PARTS.filter((p) => p.stage === stage).reduce((sum, p) => sum + p.seconds, 0) <= 300, stage);
});

// Everyday runs compare every tenth group, from another one on each day.
test('expected.json is what the native device computes', { skip: noCompiler }, async (t) => {
  const day = Math.floor(Date.now() / 864e5) % 10,
    groups = GROUPS.filter((_, i) => full || i % 10 === day),
    expected = readExpected().cases;
  t.diagnostic(full ? 'all groups' : `every tenth group from number ${day} on`);
  assert.deepEqual(await casesOnCpu(groups), Object.fromEntries(groups.map(({ name }) => [name, expected[name]])));
  assert.deepEqual(
    Object.keys(expected),
    GROUPS.map(({ name }) => name),
  );
});
