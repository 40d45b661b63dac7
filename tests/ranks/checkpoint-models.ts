// Models that checkpoints.test.ts trains, in one process and over ranks. In: a folder, and what to train; out:
// checkpoints and text in it, the same bytes for any number of ranks. As a script: a rank.
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { hostTensor, type Batch } from '../../src/base/tensor.ts';
import { Stream } from '../../src/base/random.ts';
import { openRanks } from '../../src/device/native/mpi.ts';
import type { Ranks } from '../../src/device/ranks.ts';
import type { Tensor } from '../../src/graph/tensor.ts';
import { MLP } from '../../src/nn/mlp.ts';
import { crossEntropy } from '../../src/nn/loss.ts';
import { MoE } from '../../src/nn/moe/moe.ts';
import type { MoEOptions } from '../../src/nn/moe/options.ts';
import { TransformerLM } from '../../src/nn/transformer.ts';
import { adamW } from '../../src/optim/adam.ts';
import { lion } from '../../src/optim/lion.ts';
import { muon } from '../../src/optim/muon.ts';
import { sgd } from '../../src/optim/sgd.ts';
import { compile } from '../../src/session/node.ts';
import { generate } from '../../src/session/generate.ts';
import type { CompileOptions, Model } from '../../src/session/step.ts';
import { call } from '../../src/trace/trace.ts';
import { toyBatch } from '../support/toy.ts';

interface Case {
  readonly name: string;
  readonly model: () => Model;
  readonly batch: (step: number, size?: number) => Batch;
  readonly options?: Partial<CompileOptions>;
}

const lm =
  (moe: Omit<MoEOptions, 'dModel' | 'topK'>, dropout = 0) =>
  (): TransformerLM =>
    new TransformerLM({
      vocab: 17,
      dModel: 16,
      layers: 2,
      heads: 2,
      context: 12,
      dropout,
      moe: { topK: 2, ...(typeof moe.experts === 'number' && { hidden: 24 }), ...moe },
    });
const tokens = (step: number, size = 8): Batch => toyBatch(step, size);

/** Rows of 12 numbers of one of 5 classes. */
function rows(step: number, size = 8): Batch {
  const stream = new Stream(11, 'rows');
  return {
    x: hostTensor(
      'float32',
      [size, 12],
      Float32Array.from({ length: size * 12 }, (_, i) => stream.normal(step, i)),
    ),
    y: hostTensor(
      'int32',
      [size],
      Int32Array.from({ length: size }, (_, i) => Math.floor(stream.uniform(step, i) * 5)),
    ),
  };
}

/** Experts that are modules of their own. */
class Classifier {
  readonly moe = new MoE({ dModel: 12, topK: 2, experts: Array.from({ length: 4 }, () => new MLP([12, 8, 5])) });
  forward(x: Tensor): Tensor {
    return call(this.moe, x);
  }
}

export const CASES: readonly Case[] = [
  { name: 'drop', model: lm({ experts: 8, capacity: 0.9 }, 0.1), batch: tokens },
  { name: 'spill', model: lm({ experts: 8, capacity: 0.8, overflow: 'spill' }), batch: tokens },
  { name: 'classifier', model: () => new Classifier(), batch: rows },
  { name: 'lion', model: lm({ experts: 4 }), batch: tokens, options: { optimizer: lion({ lr: 1e-3 }) } },
  { name: 'muon', model: lm({ experts: 4 }), batch: tokens, options: { optimizer: muon({ lr: 1e-3 }) } },
  {
    name: 'micro-batches',
    model: lm({ experts: 4, capacity: 1 }),
    batch: (step) => tokens(step, 12),
    options: { accumulate: 2, optimizer: sgd({ lr: 0.1, momentum: 0.9 }) },
  },
];

/** A checkpoint is written after this many steps, and after the last one. */
const STEPS = { first: 2, last: 4 };

export interface Started {
  readonly folder: string;
  readonly cases: readonly string[];
  /** The folder of another run, which goes on from its first checkpoints. */
  readonly from?: string;
  readonly placement?: CompileOptions['placement'];
}

/** Trains the models that `cases` names. */
export async function trainAll({ folder, cases, from, placement }: Started, ranks: Ranks | null): Promise<void> {
  for (const { name, model, batch, options } of CASES.filter((c) => cases.includes(c.name))) {
    const session = await compile(model(), {
      loss: crossEntropy,
      optimizer: adamW({ lr: 1e-2 }),
      seed: 5,
      threads: 1,
      ...options,
      ...(ranks && { ranks }),
      ...(placement && { placement }),
    });
    const lines: string[] = [];
    if (from !== undefined) await session.load(join(from, `${name}-${STEPS.first}.safetensors`));
    while (session.steps < STEPS.last) {
      const { step, loss, gradNorm, aux } = await session.step(batch(session.steps));
      if (step > STEPS.first) lines.push(JSON.stringify({ step, loss, gradNorm, aux }));
      if (step === STEPS.first || step === STEPS.last) await session.save(join(folder, `${name}-${step}.safetensors`));
    }
    // A batch that ranks cannot divide, and the rows of its samples.
    lines.push(JSON.stringify(await session.evaluate([batch(7), batch(8, 3)])));
    lines.push(Array.from((await session.forward(batch(9))).output.data.subarray(0, 64), String).join());
    if (session.model instanceof TransformerLM) {
      const made: number[] = [];
      for await (const token of generate(session, Uint8Array.of(1, 2, 3), { tokens: 6, seed: 1 })) made.push(token);
      lines.push(made.join());
    }
    if (!ranks || ranks.rank === 0) await writeFile(join(folder, `${name}.txt`), lines.join('\n'));
    await session.close();
  }
}

/** What a run has found of a case. */
export const filesOf = (folder: string, name: string): Promise<Buffer[]> =>
  Promise.all([`${name}-${STEPS.last}.safetensors`, `${name}.txt`].map((file) => readFile(join(folder, file))));

if (import.meta.main) {
  const ranks = await openRanks();
  await trainAll(JSON.parse(process.argv[2]) as Started, ranks);
  ranks?.close();
}
