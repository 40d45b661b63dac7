// Ten steps of a small mixture-of-experts language model, with the same results in a page's worker and in Node. In: the
// `compile` of the environment. Out: the losses, and a digest of the checkpoint (all parameters and the optimiser's
// moments).
import { loss, nn, optim, textFrom, type CompileOptions, type Model, type Session } from 'dynamoe/whole';

export interface Trained {
  readonly losses: readonly number[];
  readonly digest: string;
  readonly device: string;
}

type Compile = (model: Model, options: CompileOptions) => Promise<Session>;

const TEXT =
  'The gate looks at each token and sends it to two of four experts; each of them learns what it is sent. '.repeat(30);

export async function train(
  compile: Compile,
  options: Pick<CompileOptions, 'device' | 'threads'>,
  onStep?: (step: number, loss: number) => void,
): Promise<Trained> {
  const model = new nn.TransformerLM({
    vocab: 256,
    dModel: 32,
    layers: 2,
    heads: 4,
    context: 32,
    moe: { experts: 4, topK: 2, hidden: 48, capacity: 'dropless' },
  });
  const session = await compile(model, {
    loss: loss.crossEntropy,
    optimizer: optim.adamW({ lr: 1e-2 }),
    seed: 3,
    ...options,
  });
  const losses: number[] = [];
  for await (const batch of textFrom(TEXT).batches({ size: 4, context: 32, seed: 1, limit: 10 })) {
    const result = await session.step(batch);
    losses.push(result.loss);
    onStep?.(result.step, result.loss);
  }
  const bytes = await session.serialize(),
    device = session.executor.description;
  await session.close();
  const hash = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
  return { losses, digest: Array.from(hash, (b) => b.toString(16).padStart(2, '0')).join(''), device };
}
