// Tests the rule on a small model: `npm test`.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { compile, loss, nn, optim, textFrom } from 'dynamoe';
import type { RecompileEvent, Rule } from 'dynamoe/recompile';
import { oneExpert } from './rule.ts';

/** What the rule changes in 60 steps of a small model. */
async function changes(rule: Rule<nn.TransformerLM>): Promise<RecompileEvent[]> {
  const events: RecompileEvent[] = [];
  const model = new nn.TransformerLM({
    vocab: 256,
    dModel: 16,
    layers: 2,
    heads: 2,
    context: 16,
    moe: { experts: 4, topK: 2, hidden: 16 },
  });
  const session = await compile(model, {
    loss: loss.crossEntropy,
    optimizer: optim.adamW({ lr: 1e-2 }),
    seed: 1,
    events: (event) => events.push(event),
  });
  session.recompile(rule);
  const data = textFrom('1 + 2 = 3\n'.repeat(50));
  for await (const batch of data.batches({ size: 4, context: 16, limit: 60 })) await session.step(batch);
  await session.close();
  return events.filter((event) => event.rule === rule.name);
}

test('a layer whose second experts have little weight gets one expert for each token', async () => {
  // No weight of a second expert is more than a half.
  const [first] = await changes(oneExpert({ below: 0.6, from: 5 }));
  assert.deepEqual(
    first.changes.map(({ path, knob, from, to }) => [path, knob, from, to]),
    [['blocks.1.moe', 'topK', 2, 1]],
  );
});

test('a layer whose second experts have weight keeps two', async () => {
  assert.deepEqual(await changes(oneExpert({ below: 0, from: 5 })), []);
});
