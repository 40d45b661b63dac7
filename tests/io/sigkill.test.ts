// Tests that a run that is killed by SIGKILL several times, at any moment, ends like one that was never killed.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Stream } from '../../src/base/random.ts';
import { temporaryFolder } from './folder.ts';

const STEPS = 60;
const RUN = fileURLToPath(new URL('sigkill-run.ts', import.meta.url));

/**
 * Starts the run and kills it `ms` milliseconds after it begins, unless it ends before. Returns whether it ended by
 * itself, and how many milliseconds it ran.
 */
async function run(folder: string, ms?: number): Promise<{ ended: boolean; ran: number }> {
  const child = spawn(process.execPath, [RUN, folder, String(STEPS)], { stdio: ['ignore', 'pipe', 'inherit'] });
  await once(child.stdout, 'data');
  const start = performance.now();
  const timer = ms === undefined ? undefined : setTimeout(() => child.kill('SIGKILL'), ms);
  const [code] = (await once(child, 'exit')) as [number | null];
  clearTimeout(timer);
  assert.ok(code === 0 || code === null, `exit code ${code}`);
  return { ended: code === 0, ran: performance.now() - start };
}

test('a run that is killed at any moment and resumed has the events of an uninterrupted run', async (t) => {
  const folder = await temporaryFolder(t);
  const whole = join(folder, 'whole'),
    torn = join(folder, 'torn');
  const { ran } = await run(whole);
  const random = new Stream(1, 'sigkill');
  let kills = 0; // the moments range from before the folder exists to the middle of the steps
  while (kills < 60 && !(await run(torn, ran * 0.3 * random.uniform(kills, 0) ** 2)).ended) kills++;
  if (kills === 60) await run(torn);
  t.diagnostic(`${kills} kills`);
  assert.ok(kills >= 3, `only ${kills} kills`);
  assert.deepEqual(await readFile(join(torn, 'events.jsonl')), await readFile(join(whole, 'events.jsonl')));
  assert.deepEqual(await readdir(torn), await readdir(whole));
  const last = `step-000000${STEPS}.safetensors`;
  assert.deepEqual(await readFile(join(torn, last)), await readFile(join(whole, last)));
});
