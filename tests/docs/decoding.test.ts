// The serving guide's function that continues a text must decode bytes correctly if characters have several bytes.
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { blocksOf } from './blocks.ts';
import { Workspace } from './workspace.ts';

const place = await Workspace.make();
after(() => place.remove());

test('the serving guide continues a text with characters of two, three and four bytes', async () => {
  const program = blocksOf('docs/guide/serving.md').find(({ text }) => text.includes('async function continued'));
  const sentence = 'Grüße aus Köln: 5 € für 🙂. ',
    changed = (program?.text ?? '')
      .replaceAll('the quick brown fox jumps over the lazy dog. ', sentence)
      .replaceAll('the quick brown ', 'Grüße aus ')
      .replaceAll('the lazy ', 'Köln: 5 ')
      .replaceAll('fox jumps ', 'für 🙂. ')
      .replace('tokens: 20', 'tokens: 40')
      .replace('text.slice(0, 18)', 'text');
  await place.write('decoding.ts', changed);
  const { code, output } = await place.node('decoding.ts');
  assert.equal(code, 0, output);
  for (const said of [
    'Grüße aus Köln: 5 € für 🙂. Grüße',
    'Köln: 5 € für 🙂. Grüße aus',
    'für 🙂. Grüße aus Köln: 5 €',
  ])
    assert.ok(output.includes(said), output);
});
