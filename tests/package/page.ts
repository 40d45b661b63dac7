// A program for a browser, as a bundler gets it: ten steps of the same small mixture of experts as in train.ts, on
// `auto`. Out: the losses.
import { compile, loss, nn, optim, textFrom } from 'dynamoe';

export async function run(threads: number): Promise<number[]> {
  const text = textFrom('experts wait in the shade while the quick brown fox jumps. '.repeat(40));
  const model = new nn.TransformerLM({
    vocab: 256,
    dModel: 16,
    layers: 2,
    heads: 2,
    context: 16,
    moe: { experts: 4, topK: 2, hidden: 24, capacity: 'dropless' },
  });
  const session = await compile(model, {
    loss: loss.crossEntropy,
    optimizer: optim.adamW({ lr: 1e-2 }),
    threads,
    seed: 5,
  });
  const losses: number[] = [];
  for await (const batch of text.batches({ size: 4, context: 16, seed: 1, limit: 10 }))
    losses.push((await session.step(batch)).loss);
  await session.close();
  return losses;
}
