// Every optimiser: a run that goes on from a checkpoint has the bits of a run without a pause, devices and numbers of
// threads give the same bits, moments move with experts, and what is stored in 16 bits stays near float32.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { crossEntropy } from '../../src/nn/loss.ts';
import { MoE } from '../../src/nn/moe/moe.ts';
import * as optim from '../../src/optim/index.ts';
import { splitExpert } from '../../src/recompile/policies/lifecycle.ts';
import { compile } from '../../src/session/node.ts';
import type { Session } from '../../src/session/session.ts';
import type { CompileOptions } from '../../src/session/step.ts';
import { changeNow, D, trainedSession, valuesAt } from '../nn/moe/change-experts.ts';
import { fingerprint, noCompiler, toyBatch, toyLM } from '../support/toy.ts';

interface Kind {
  readonly make: (clip?: number) => optim.Optimizer;
  /** The moments of an expert's matrix. */
  readonly moments: readonly string[];
}
const KINDS: Readonly<Record<string, Kind>> = {
  adamW: { make: (clip) => optim.adamW({ lr: 1e-2, ...(clip !== undefined && { clip }) }), moments: ['m', 'v'] },
  lion: { make: (clip) => optim.lion({ lr: 1e-3, ...(clip !== undefined && { clip }) }), moments: ['m'] },
  muon: {
    make: (clip) => optim.muon({ lr: 5e-3, adamW: { lr: 1e-2 }, ...(clip !== undefined && { clip }) }),
    moments: ['momentum'],
  },
  'ema of adamW': {
    make: (clip) => optim.ema(optim.adamW({ lr: 1e-2, ...(clip !== undefined && { clip }) }), { decay: 0.9 }),
    moments: ['m', 'v', 'average'],
  },
};

async function steps(session: Session, from: number, to: number): Promise<number[]> {
  const losses: number[] = [];
  for (let i = from; i < to; i++) losses.push((await session.step(toyBatch(i % 2))).loss);
  return losses;
}

for (const [name, { make, moments }] of Object.entries(KINDS)) {
  const open = (options: Partial<CompileOptions> = {}): Promise<Session> =>
    compile(toyLM(), {
      loss: crossEntropy,
      optimizer: make(1),
      device: 'wasm',
      threads: 1,
      seed: 3,
      say: () => undefined,
      ...options,
    });

  test(`${name}: a run learns, and goes on from a checkpoint with the same bits`, async () => {
    for (const precision of ['float32', 'bfloat16-weights'] as const) {
      await using whole = await open({ precision });
      const losses = await steps(whole, 0, 30);
      assert.ok(losses[29] < losses[1] - 0.1, `${precision}: ${losses[1]} to ${losses[29]}`);
      await using first = await open({ precision });
      await steps(first, 0, 20);
      await using second = await open({ precision, seed: 4 });
      await second.deserialize(await first.serialize());
      assert.deepEqual(await steps(second, 20, 30), losses.slice(20), precision);
      assert.deepEqual(fingerprint(second), fingerprint(whole), precision);
    }
  });

  test(`${name}: native and wasm, with one thread and with two, give the same bits`, { skip: noCompiler }, async () => {
    const found: unknown[] = [];
    for (const [device, threads] of [
      ['wasm', 1],
      ['wasm', 2],
      ['native', 1],
      ['native', 2],
    ] as const) {
      await using session = await open({ device, threads });
      found.push([await steps(session, 0, 4), fingerprint(session)]);
    }
    for (const other of found.slice(1)) assert.deepEqual(other, found[0]);
  });

  test(`${name}: float32 stays near the reference, which computes in float64`, async () => {
    await using reference = await open({ device: 'reference' });
    await using short = await open();
    const [a, b] = [await steps(reference, 0, 4), await steps(short, 0, 4)];
    a.forEach((loss, i) => {
      assert.ok(Math.abs(loss - b[i]) < 1e-3, `step ${i}: ${loss} and ${b[i]}`);
    });
  });

  test(`${name}: the moments of an expert move with it`, async () => {
    const moe = new MoE({ dModel: D, experts: 6, topK: 2, hidden: 8, bias: true, active: 4 });
    await using session = await trainedSession(moe, 'wasm', make());
    await changeNow(session, (m) => {
      splitExpert(m, 1);
    });
    const names = session.states().map((s) => s.name);
    for (const moment of moments) assert.ok(names.includes(`optim/${moment}/experts.w1`), moment);
    for (const state of names.filter((n) => n.includes('experts.')))
      assert.deepEqual(valuesAt(session, state, 4), valuesAt(session, state, 1), state);
    for (const moment of moments)
      assert.ok(
        valuesAt(session, `optim/${moment}/experts.w1`, 4).some((v) => v !== 0),
        'it has been trained',
      );
  });
}
