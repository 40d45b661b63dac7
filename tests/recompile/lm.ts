// A small language model under recompilation, for tests of the engine.
import assert from 'node:assert/strict';
import type { MoE } from '../../src/nn/moe/moe.ts';
import { crossEntropy } from '../../src/nn/loss.ts';
import { TransformerLM } from '../../src/nn/transformer.ts';
import { adamW } from '../../src/optim/adam.ts';
import type { RecompileEvent, Rule } from '../../src/recompile/rule.ts';
import { compile } from '../../src/session/node.ts';
import type { DeviceName } from '../../src/session/platform.ts';
import type { Session } from '../../src/session/session.ts';
import type { Settings } from '../../src/trace/knobs.ts';
import { toyBatch } from '../support/toy.ts';

export type LM = TransformerLM;
export interface Opened {
  session: Session;
  events: RecompileEvent[];
}

export async function open({
  device = 'wasm',
  say = () => undefined,
  ...options
}: {
  device?: DeviceName;
  capacity?: number;
  events?: (e: RecompileEvent) => void;
  say?: (line: string) => void;
} = {}): Promise<Opened> {
  const events: RecompileEvent[] = [],
    model = new TransformerLM({
      vocab: 17,
      dModel: 16,
      layers: 2,
      heads: 2,
      context: 12,
      moe: { experts: 4, topK: 2, hidden: 24, capacity: options.capacity ?? 'dropless' },
    });
  const session = await compile(model, {
    loss: crossEntropy,
    optimizer: adamW({ lr: 1e-2 }),
    device,
    threads: 1,
    seed: 3,
    memory: 256e6,
    say,
    events: (e) => {
      events.push(e);
      options.events?.(e);
    },
  });
  return { session, events };
}

export async function steps(session: Session, count: number): Promise<number[]> {
  const losses: number[] = [];
  for (let i = 0; i < count; i++) losses.push((await session.step(toyBatch(session.steps))).loss);
  return losses;
}

/** Steps until `count` events were reported; how many steps that takes depends on the compiler. Returns the losses. */
export async function stepsUntilEvents({ session, events }: Opened, count = 1): Promise<number[]> {
  const losses: number[] = [];
  while (events.length < count) losses.push(...(await steps(session, 1)));
  return losses;
}

export const blocks = (m: LM): MoE[] =>
  m.blocks.map((b) => {
    assert.ok(b.moe);
    return b.moe;
  });
/** The knobs of the two MoE layers that steps of this session use: those that rules have set, else the user's. */
export const inForce = (session: Session): Settings[] =>
  ['blocks.0.moe', 'blocks.1.moe'].map((path) => session.settings(path));
export const toPadded: Rule<LM> = {
  name: 'padded',
  trigger: (run) => run.step >= 4,
  alter: (m) => {
    for (const moe of blocks(m)) moe.dispatch = 'padded';
  },
  budget: 1,
  measure: false,
};
