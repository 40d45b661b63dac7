// Flags whose product is too large are refused at once.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { generate } from '../../src/recompile/lab/generate.ts';
import { GraphBuilder } from '../../src/graph/builder.ts';
import { ops as OPS } from '../../src/graph/ops/index.ts';
import { temporaryFolder } from '../io/folder.ts';
import { command, writeText } from './command.ts';

for (const [flags, words] of [
  [['--batch', '30000000'], /30000000, 64, 128.* elements, more than 2147483647/],
  [['--batch', '300000', '--context', '4000'], /1200000000, 128|300000, 4000, 128|needs at least/],
] as const) {
  test(`train ${flags.join(' ')} is refused before a batch is made`, { timeout: 60_000 }, async (t) => {
    const folder = await temporaryFolder(t),
      data = await writeText(folder);
    const { code, stderr } = await command(
      'train',
      '--data',
      data,
      '--steps',
      '1',
      '--device',
      'wasm',
      '--out',
      join(folder, 'run'),
      ...flags,
    );
    assert.equal(code, 1, stderr);
    assert.match(stderr, words);
  });
}

test('lab refuses more random draws than take some minutes', () => {
  assert.throws(
    () => generate('drift', { steps: 1e8 }),
    /100000000 steps of 256 tokens over 16 experts take 409600000000 draws/,
  );
  assert.throws(() => generate('drift', { tokens: 1e9 }), /take .* draws, more than 10000000000/);
});

test('GraphBuilder.resume accepts a graph with more values than a call may have arguments', () => {
  const first = new GraphBuilder(OPS),
    type = { dtype: 'float32', shape: [1] } as const;
  for (let i = 0; i < 300_000; i++) first.types.push(type);
  const graph = { types: first.types, nodes: [], inputs: [], outputs: [], updates: [] };
  assert.equal(GraphBuilder.resume(graph as never, OPS).types.length, 300_000);
});
