// Trains small models and prints what must not depend on the number of ranks, nor on the device: losses, norms and all
// states as hashes, and what rules decided. A rank of a job, or a process alone: train.ts CASE...
import { createHash } from 'node:crypto';
import { hostTensor, type Batch } from '../../src/base/tensor.ts';
import { openRanks } from '../../src/device/native/mpi.ts';
import { crossEntropy } from '../../src/nn/loss.ts';
import type { MoEOptions } from '../../src/nn/moe/options.ts';
import { TransformerLM, type TransformerOptions } from '../../src/nn/transformer.ts';
import { adamW } from '../../src/optim/adam.ts';
import { policiesFor } from '../../src/recompile/policies/select.ts';
import type { Rule } from '../../src/recompile/rule.ts';
import { compile } from '../../src/session/node.ts';
import type { DeviceName } from '../../src/session/platform.ts';
import type { CompileOptions } from '../../src/session/step.ts';

interface Work {
  readonly moe?: Partial<MoEOptions>;
  readonly model?: Partial<TransformerOptions>;
  readonly session?: Partial<CompileOptions>;
  readonly batch?: number;
  readonly steps?: number;
  readonly rules?: string;
  readonly own?: Rule<TransformerLM>;
}

/** Each kind of layer, of session and of batch. */
export const WORKS: Readonly<Record<string, Work>> = {
  dropless: {},
  capacity: { moe: { capacity: 0.9 }, session: { accumulate: 2 }, model: { dropout: 0.1 } },
  choice: { moe: { capacity: 0.8, priority: 'choice' }, session: { precision: 'bfloat16' } },
  spill: { moe: { capacity: 0.75, overflow: 'spill' }, session: { precision: 'bfloat16-weights' } },
  padded: { moe: { dispatch: 'padded', capacity: 0.9, overflow: 'spill' }, session: { split: 2 } },
  masks: { moe: { dispatch: 'einsum', capacity: 1.25 } },
  dense: { moe: { dispatch: 'dense' } },
  chunks: { moe: { chunks: 3, capacity: 1.5, bias: true, activation: 'swiglu', shared: 32 } },
  undivided: { moe: { experts: 6 }, batch: 5 },
  replicated: { moe: { experts: 5, bias: true }, session: { accumulate: 2 } },
  replicatedDrop: { moe: { experts: 6, capacity: 0.8, priority: 'probs' } },
  long: { batch: 1024, steps: 1, model: { layers: 1 } },
  rules: { moe: { capacity: 2 }, rules: 'adaptCapacity', steps: 120 },
  undone: { moe: { capacity: 2 }, own: narrowed(), steps: 80 },
  grown: { moe: { capacity: 0.75 }, own: grown(), steps: 48 },
};

/** Some experts get more room than any had before, the others less. */
function grown(): Rule<TransformerLM> {
  return {
    name: 'grow',
    budget: 1,
    trigger: ({ step }) => step === 3,
    alter({ blocks }) {
      for (const { moe } of blocks) if (moe) moe.capacity = [2.5, 0.25, 0.5, 2, 0.25, 0.5, 1.5, 0.5];
    },
  };
}

/** A change of results, which is taken back later. */
function narrowed(): Rule<TransformerLM> {
  return {
    name: 'narrow',
    budget: 2,
    cooldown: 8,
    trigger: ({ step }) => step === 3,
    alter({ blocks: [{ moe }] }) {
      if (moe) moe.capacity = 0.75;
    },
    undo: ({ step }) => step >= 40,
  };
}

const VOCAB = 33,
  TIME = 16;

/** Targets follow from inputs; few tokens are frequent, so that experts get unequal loads. */
function batchOf(step: number, samples: number): Batch {
  const token = (i: number): number => ((i * 31 + (i >> 3) * 7 + step * 13) ** 2 % 997) % (i % 3 === 0 ? VOCAB : 7),
    data = (shift: number): Int32Array => Int32Array.from({ length: samples * TIME }, (_, i) => token(i + shift));
  return { x: hostTensor('int32', [samples, TIME], data(0)), y: hostTensor('int32', [samples, TIME], data(1)) };
}

/** One line: the case's name, a loss, hashes, decisions. */
export async function trained(name: string, device: DeviceName = 'native'): Promise<string> {
  const { moe, model, session: options, batch = 16, steps = 4, rules, own } = WORKS[name] ?? {},
    ranks = await openRanks(),
    lm = new TransformerLM({
      vocab: VOCAB,
      dModel: 32,
      layers: 2,
      heads: 2,
      context: TIME,
      ...model,
      moe: { experts: 8, topK: 2, hidden: 48, balance: 0.01, zLoss: 0.001, ...moe },
    });
  const decisions: string[] = [],
    session = await compile(lm, {
      device,
      ...(device === 'native' && { threads: 1 }),
      loss: crossEntropy,
      optimizer: adamW({ lr: 3e-3, clip: 1 }),
      seed: 3,
      events: ({ rule, step, effect, kept }) => decisions.push(`${rule} ${step} ${String(effect)} ${kept}`),
      ...options,
      ...(ranks && { ranks }),
    });
  for (const rule of rules === undefined ? [] : policiesFor(lm, rules)) session.recompile(rule);
  if (own) session.recompile(own);
  const numbers = createHash('sha256'),
    values = createHash('sha256');
  for (let step = 0; step < steps; step++) {
    const { loss, gradNorm } = await session.step(batchOf(step, batch));
    numbers.update(Float64Array.of(loss, gradNorm ?? 0));
  }
  const { loss } = await session.evaluate([batchOf(7, 8), batchOf(8, 3)]);
  for (const state of session.states().sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const { data } = await state.readAsync();
    values.update(state.name).update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  }
  await session.close();
  return [name, loss, numbers.digest('hex'), values.digest('hex'), ...decisions].join(' ');
}

const names = process.argv.slice(2);
if (import.meta.main) {
  for (const name of names) {
    const line = await trained(name),
      ranks = await openRanks();
    if (!ranks || ranks.rank === 0) console.log(line);
  }
  (await openRanks())?.close();
}
