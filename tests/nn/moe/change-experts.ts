// For tests: changes the experts of a layer in a session between two steps, as the engine does when a change takes
// effect, but at once and without an event.
import { hostTensor, type Batch } from '../../../src/base/tensor.ts';
import { meanSquaredError } from '../../../src/nn/loss.ts';
import type { MoE } from '../../../src/nn/moe/moe.ts';
import { adamW } from '../../../src/optim/adam.ts';
import type { Optimizer } from '../../../src/optim/optimizer.ts';
import { draftOf } from '../../../src/recompile/draft.ts';
import { carry } from '../../../src/run/carry.ts';
import { compile } from '../../../src/session/node.ts';
import type { DeviceName } from '../../../src/session/platform.ts';
import type { Session } from '../../../src/session/session.ts';
import { Knobs, type Change } from '../../../src/trace/knobs.ts';
import { normals } from './layer.ts';
import { peek } from '../../support/delayed-device.ts';

export const D = 6,
  T = 40;
export const batch = (step: number, tokens = T): Batch => ({
  x: hostTensor('float32', [tokens, D], normals(`x${step}`, tokens * D)),
  y: hostTensor('float32', [tokens, D], normals(`y${step}`, tokens * D)),
});

/** A session after four training steps, so that it has moments. */
export async function trainedSession(
  moe: MoE,
  device: DeviceName,
  optimizer: Optimizer = adamW({ lr: 0.02 }),
): Promise<Session> {
  const session = await compile(moe, { loss: meanSquaredError, optimizer, device, threads: 2, seed: 1, memory: 256e6 });
  for (let i = 0; i < 4; i++) await session.step(batch(i));
  return session;
}

/** Applies what `alter` writes on a draft of the layer; returns a function that takes back values and knobs. */
export async function changeNow(session: Session, alter: (moe: MoE) => void): Promise<() => void> {
  const knobs = new Knobs(session.named),
    draft = draftOf(session.model as MoE);
  alter(draft.model);
  const changes = draft.changes(),
    back = await carry(session.executor, knobs.moves(changes)),
    set = (list: readonly Change[]): void => {
      knobs.apply(list);
      knobs.keep(); // writes the settings on the layer itself, for all its sessions
    };
  set(changes);
  return () => {
    set(changes.map((c) => ({ ...c, from: c.to, to: c.from })));
    back();
  };
}

export const output = async (session: Session, step = 9): Promise<number[]> =>
  Array.from((await session.forward(batch(step))).output.data, Number);

/** The values of a state at index e of an axis. */
export function valuesAt(session: Session, name: string, e: number, axis = 0): number[] {
  const { data, shape } = peek(() => session.executor.peekState(name)),
    inner = shape.slice(axis + 1).reduce((n, d) => n * d, 1);
  return Array.from(data, Number).filter((_, i) => Math.floor(i / inner) % shape[axis] === e);
}
