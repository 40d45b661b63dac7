// States over ranks: each rank holds its experts only, and files, values and their bits are those of one process.
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { crossEntropy } from '../../src/nn/loss.ts';
import { adamW } from '../../src/optim/adam.ts';
import { compile } from '../../src/session/node.ts';
import type { Ranks } from '../../src/device/ranks.ts';
import type { CompileOptions } from '../../src/session/step.ts';
import { fingerprint, noCompiler, toyBatch, toyLM } from '../support/toy.ts';
import { shared, ThreadRanks } from '../support/thread-ranks.ts';
import type { Found, Given } from './rank-states.ts';

const folder = await mkdtemp(join(tmpdir(), 'dynamoe-ranks-'));
test.after(() => rm(folder, { recursive: true, force: true }));

const OPTIONS: CompileOptions = { loss: crossEntropy, optimizer: adamW({ lr: 1e-2 }), seed: 3, threads: 1 };

/** What one process saves before the first step and after two steps. */
async function alone(): Promise<{ first: Buffer; trained: string; states: Record<string, string>; bytes: number }> {
  const session = await compile(toyLM(), OPTIONS),
    [first, trained] = ['first', 'trained'].map((name) => join(folder, name)),
    bytes = session.bytes().params;
  await session.save(first);
  for (let i = 0; i < 2; i++) await session.step(toyBatch(i));
  await session.save(trained);
  const states = fingerprint(session);
  await session.close();
  return { first: await readFile(first), trained, states, bytes };
}

const one = noCompiler ? null : await alone();

for (const [size, placement] of [
  [2, undefined],
  [4, undefined],
  [8, undefined],
  [2, { 4: [2, 3, 1, 0] }],
  [4, { 4: [1, 3, 0, 2] }],
] as const)
  test(
    `${size} ranks${placement ? ', experts in another order' : ''}: states and files have the bits of one process`,
    { skip: noCompiler },
    async () => {
      const wanted = one as Awaited<ReturnType<typeof alone>>,
        name = (text: string): string => join(folder, `${text}-${size}-${placement ? 'moved' : ''}`),
        files = {
          first: name('first'),
          from: wanted.trained,
          again: name('again'),
          nowhere: join(folder, 'missing', 'file'),
        },
        memory = shared(size);
      const found = await Promise.all(
        Array.from({ length: size }, async (_, rank) => {
          const workerData: Given = { shared: memory, rank, files, ...(placement && { placement }) },
            worker = new Worker(new URL('rank-states.ts', import.meta.url), { workerData });
          return ((await once(worker, 'message')) as Found[])[0];
        }),
      );
      assert.ok((await readFile(files.first)).equals(wanted.first), 'the initial values');
      assert.ok((await readFile(files.again)).equals(await readFile(wanted.trained)), 'the values of another process');
      for (const { states, refused, bytes } of found) {
        assert.deepEqual(states, wanted.states);
        assert.match(refused[0], /cannot write|no such file|does not exist/i);
        assert.match(refused[1], /missing/);
        // 4 experts are divided by 2 and 4 ranks, but not by 8.
        assert.equal(bytes < wanted.bytes, size < 8);
      }
      assert.ok(found[1].refused[0].startsWith('UserError: rank 0: '), found[1].refused[0]);
    },
  );

const fake = (size: number): Ranks => new ThreadRanks(shared(size), 0);

for (const [what, options, message] of [
  ['3 ranks', { ranks: fake(3) }, /3 ranks cannot train one model/],
  ['a device of one process', { ranks: fake(2), device: 'wasm' }, /device wasm runs in one process only/],
  ['the reference', { ranks: fake(2), device: 'reference' }, /device reference runs in one process only/],
  ['a GPU', { ranks: fake(2), device: 'cuda' }, /device cuda runs in one process only/],
  ['a placement that lacks experts', { ranks: fake(2), placement: { 4: [0, 1, 1, 2] } }, /each from 0 to 3 once/],
] as const)
  test(`${what}: refused by name`, async () => {
    await assert.rejects(compile(toyLM(), { ...OPTIONS, ...options }), message);
  });

test('ranks of size 1 are one process', { skip: noCompiler }, async () => {
  const session = await compile(toyLM(), { ...OPTIONS, ranks: fake(1) });
  assert.equal(session.options.ranks, undefined);
  await session.close();
});
