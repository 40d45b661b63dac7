// The API reference must be up to date with the docstrings, and every function and class must have a docstring.
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { pages } from '../../tools/api.ts';
import { root } from './blocks.ts';

const made = pages(),
  folder = join(root, 'docs/api');

test('docs/api is up to date with the source', () => {
  assert.deepEqual(readdirSync(folder).sort(), [...made.keys()].map((name) => `${name}.md`).sort());
  const stale = [...made]
    .filter(([name, text]) => readFileSync(join(folder, `${name}.md`), 'utf8') !== text)
    .map(([name]) => name);
  assert.deepEqual(stale, [], '`npm run docs` updates it');
});

test('every export of every entry point is listed, with a docstring', () => {
  assert.match(
    made.get('core') ?? '',
    /### `compile`\n\n`compile\(model: Model, options: CompileOptions\): Promise<Session>`\n\nBuilds a session/,
  );
  assert.match(made.get('core') ?? '', /\| `step\(batch: Batch\): Promise<StepResult>` \| One optimiser step\./);
  assert.match(made.get('recompile') ?? '', /### `adaptCapacity`/);
  assert.match(made.get('nn') ?? '', /### `nn\.MoE`[^#]*`new nn\.MoE\(options: MoEOptions\)`/);
  const bare = [...made.values()]
    .flatMap((text) => text.split('## Types')[0].split('\n### ').slice(1))
    .filter((entry) => {
      const [, , ...rest] = entry.split('\n\n');
      return (rest[0] ?? '').startsWith('[source]');
    })
    .map((entry) => entry.split('\n')[0]);
  assert.deepEqual(bare, []);
});
