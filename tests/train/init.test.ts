// Tests initFrom and `init` of configs: fine-tuning from a checkpoint, with renames, skips and what they refuse.
import assert from 'node:assert/strict';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { compile, initFrom, loss, nn, optim, readSafetensors } from '../../src/node.ts';
import type { HostTensor } from '../../src/base/tensor.ts';
import type { Session } from '../../src/session/session.ts';
import { command, eventsOf, lossesOf, TINY, writeText } from '../cli/command.ts';
import { temporaryFolder } from '../io/folder.ts';

const mlp = (widths: readonly number[], seed: number): Promise<Session> =>
  compile(new nn.MLP(widths), {
    loss: loss.meanSquaredError,
    optimizer: optim.adamW({ lr: 0.1 }),
    device: 'wasm',
    threads: 1,
    seed,
  });
const tensorsOf = (session: Session): Map<string, HostTensor> =>
  new Map(session.states().map(({ name, shape, read }) => [name, { ...read(), shape, data: read().data.slice() }]));
const batch = {
  x: { dtype: 'float32', shape: [2, 3], data: Float32Array.of(1, 2, 3, 4, 5, 6) },
  y: { dtype: 'float32', shape: [2, 2], data: Float32Array.of(1, 0, 0, 1) },
} as const;

test('initFrom gives the steps that hand-set parameters give, bit for bit, with a fresh optimiser', async () => {
  const from = await mlp([3, 4, 2], 1);
  await from.step(batch); // gives it moments, which are not taken
  const source = tensorsOf(from),
    own = await mlp([3, 4, 2], 2),
    hand = await mlp([3, 4, 2], 2);
  const renamed = new Map([...source].map(([name, value]) => [name.replace('layers.', 'net.'), value]));
  const done = await initFrom(own, renamed, { rename: { 'net.*': 'layers.*' } });
  assert.equal(done.taken, 4);
  assert.deepEqual(done.renamed[0], { from: 'net.0.weight', to: 'layers.0.weight' });
  await hand.restore(
    0,
    [...source].filter(([name]) => !name.includes('/')).map(([name, value]) => ({ name, value })),
  );
  for (let i = 0; i < 3; i++) assert.equal((await own.step(batch)).loss, (await hand.step(batch)).loss);
  assert.deepEqual(tensorsOf(own), tensorsOf(hand));
  await assert.rejects(initFrom(own, source), /has done 3 steps/);
  for (const session of [from, own, hand]) await session.close();
});

test('initFrom keeps skipped parameters, and refuses all else that does not fit, with nothing changed', async () => {
  const from = await mlp([3, 4, 5], 1),
    source = tensorsOf(from),
    own = await mlp([3, 4, 2], 2),
    before = tensorsOf(own);
  const refused: [Parameters<typeof initFrom>[2], RegExp][] = [
    [{}, /other shapes: layers\.1\.weight is \[4, 5\] there, and \[4, 2\] in the model, layers\.1\.bias/],
    [{ rename: { 'layers.1.*': 'head.*' } }, /lacks layers\.1\.weight.*; the model lacks head\.weight/],
    [{ rename: { 'layers.1.*': 'layers.0.*' } }, /layers\.0\.weight and layers\.1\.weight would both become/],
    [{ rename: { 'laers.*': 'a.*' } }, /rename laers\.\*: the source has no such tensor/],
    [{ rename: { 'layers.*': 'a' } }, /same number of \*/],
    [{ skip: ['head.*'] }, /skip head\.\*: neither the model nor the source has such a name/],
    [{ skip: ['layersx1*', 'layers.1.*'] }, /skip layersx1\*/],
  ];
  for (const [options, message] of refused) {
    await assert.rejects(initFrom(own, source, options), message);
    assert.deepEqual(tensorsOf(own), before);
  }
  const done = await initFrom(own, source, { skip: ['layers.1.*'] }),
    after = tensorsOf(own);
  assert.deepEqual(done.kept, ['layers.1.weight', 'layers.1.bias']);
  assert.deepEqual([...done.unused].sort(), ['layers.1.bias', 'layers.1.weight']);
  assert.deepEqual(after.get('layers.0.weight'), source.get('layers.0.weight'));
  assert.deepEqual(after.get('layers.1.weight'), before.get('layers.1.weight'));
  await from.close();
  await own.close();
});

test('train --init starts a new run from a checkpoint, which a resumed run does not read again', async (t) => {
  const folder = await temporaryFolder(t),
    data = await writeText(folder),
    at = (name: string): string => join(folder, name),
    flags = ['train', ...TINY, '--data', data, '--device', 'wasm', '--threads', '1', '--json'];
  const base = await command(...flags, '--steps', '2', '--out', at('base'));
  assert.equal(base.code, 0, base.stderr);
  const tuned = [...flags, '--init', at('base'), '--seed', '7', '--save-every', '0', '--out', at('tuned')];
  const run = await command(...tuned, '--steps', '3', '--lr', '0.01');
  assert.equal(run.code, 0, run.stderr);
  assert.match(run.stderr, /starts from \d+ tensors of \S+step-00000002\.safetensors \(step 2\)/);
  const [begins] = eventsOf(run.stdout),
    { init } = begins['config'] as { init?: { checkpoint: string } };
  assert.deepEqual([begins['resumed_from'], init?.checkpoint], [0, at('base')]);
  assert.deepEqual([...lossesOf(run.stdout).keys()], [1, 2, 3]);
  const values = async (path: string): Promise<Map<string, HostTensor>> => {
    const all = await readSafetensors(await readFile(path));
    return new Map([...all].filter(([name]) => !name.includes('/')));
  };
  const first = join(at('tuned'), 'step-00000000.safetensors');
  assert.deepEqual(await values(first), await values(join(at('base'), 'step-00000002.safetensors')));
  await rm(join(at('tuned'), 'step-00000003.safetensors')); // as if it had been killed
  const both = await command('train', '--init', at('base'), '--resume', '--out', at('tuned'));
  assert.equal(both.code, 2);
  assert.match(both.stderr, /--init has no effect with --resume/);
  await rm(at('base'), { recursive: true });
  const again = await command('train', '--resume', '--out', at('tuned'), '--json');
  assert.equal(again.code, 0, again.stderr);
  assert.deepEqual(lossesOf(again.stdout), lossesOf(run.stdout));
});

test('a config with init skips a head of another vocabulary; a refused start leaves no run folder', async (t) => {
  const folder = await temporaryFolder(t),
    data = await writeText(folder),
    at = (name: string): string => join(folder, name);
  const flags = ['--data', data, '--steps', '1', '--device', 'wasm', '--threads', '1'];
  assert.equal((await command('train', ...TINY, ...flags, '--out', at('base'))).code, 0);
  const moe = { experts: 4, hidden: 16 },
    model = { vocab: 300, layers: 1, dModel: 16, heads: 2, context: 16, moe };
  const start = async (config: object, ...more: string[]): ReturnType<typeof command> => {
    await writeFile(at('config.json'), JSON.stringify({ batch: 4, ...config }));
    return command('train', at('config.json'), ...flags, '--out', at('new'), ...more);
  };
  const init = { checkpoint: at('base') },
    refused = await start({ model, init });
  assert.equal(refused.code, 1);
  assert.match(refused.stderr, /does not fit the model: other shapes: \S+ is \[.*256.*\] there, and \[.*300.*\]/);
  assert.match(refused.stderr, /hint: .*--init-skip/);
  const fewer = await start({ model: { ...model, vocab: 256, moe: { ...moe, experts: 8 } }, init });
  assert.match(fewer.stderr, /other shapes: .*is \[4, .*\] there, and \[8, /);
  await assert.rejects(readFile(join(at('new'), 'run.json')));
  const skip = ['embed*', 'head*'];
  const done = await start({ model, init: { ...init, skip } });
  assert.equal(done.code, 0, done.stderr);
  const without = await command('train', ...flags, '--init-skip', 'a', '--out', at('other'));
  assert.match(without.stderr, /--init-skip needs --init/);
});
