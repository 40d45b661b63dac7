// For tests: random settings of MoE layers over every router, and the devices on which they run.
import { after } from 'node:test';
import fc from 'fast-check';
import type { Device } from '../../../src/device/device.ts';
import { NativeDevice } from '../../../src/device/native/native.ts';
import { WasmDevice } from '../../../src/device/wasm/wasm.ts';
import { MLP } from '../../../src/nn/mlp.ts';
import { ExpertChoiceRouter, HashRouter } from '../../../src/nn/moe/fixed-routers.ts';
import type { LossName } from '../../../src/nn/moe/losses.ts';
import { MoE } from '../../../src/nn/moe/moe.ts';
import type { Router } from '../../../src/nn/moe/router.ts';
import { NoisyTopKRouter, SigmoidRouter, SinkhornRouter, TopKRouter } from '../../../src/nn/moe/routers.ts';
import { devices } from './layer.ts';

/** Width of a token, and number of experts. */
export const D = 12,
  E = 6;
const groups = { groups: 3, limit: 2 };

/** The compiled devices that can run here, by name; they are closed after the file's tests. */
export async function openDevices(): Promise<ReadonlyMap<string, Device>> {
  const open = new Map<string, Device>();
  for (const name of devices) open.set(name, name === 'native' ? await NativeDevice.open(2) : await WasmDevice.open(2));
  after(async () => {
    for (const device of open.values()) await device.close();
  });
  return open;
}

const ROUTERS: Readonly<Record<string, () => Router>> = {
  'top-k': () => new TopKRouter({ dModel: D, experts: E }),
  'top-k of groups, with jitter': () => new TopKRouter({ dModel: D, experts: E, groups, jitter: 0.1 }),
  'softmax after': () => new TopKRouter({ dModel: D, experts: E, softmax: 'after' }),
  noisy: () => new NoisyTopKRouter({ dModel: D, experts: E }),
  sigmoid: () => new SigmoidRouter({ dModel: D, experts: E, groups }),
  sinkhorn: () => new SinkhornRouter({ dModel: D, experts: E }),
  'expert choice': () => new ExpertChoiceRouter({ dModel: D, experts: E }),
  'by position': () => new HashRouter({ experts: E }),
  'by id': () => new HashRouter({ experts: E, vocab: 9 }),
};
const LOSSES: Readonly<Record<string, Partial<Record<LossName, number>>>> = {
  noisy: { balance: 0.1, load: 0.3, z: 0.1 },
  'by position': { importance: 0.2 },
  'by id': { importance: 0.2 },
};

export const settings = fc.record({
  router: fc.constantFrom(...Object.keys(ROUTERS)),
  dispatch: fc.constantFrom('ragged' as const, 'padded' as const, 'einsum' as const, 'dense' as const),
  capacity: fc.constantFrom('dropless' as const, 0, 0.3, 0.77, 1, [0.3, 1, 0, 0.7, 2, 0.5]),
  overflow: fc.constantFrom('drop' as const, 'spill' as const),
  priority: fc.constantFrom('position' as const, 'choice' as const, 'probs' as const),
  recompute: fc.boolean(),
  chunks: fc.constantFrom(1, 1, 3),
  topK: fc.integer({ min: 1, max: 3 }),
  modules: fc.boolean(),
  free: fc.boolean(),
});
export type Settings = typeof settings extends fc.Arbitrary<infer T> ? T : never;

/** A layer with these settings; those that cannot be combined with others are left out. */
export function layerOf({ router, modules, topK, free, ...knobs }: Settings): MoE {
  const moe = new MoE({
    dModel: D,
    topK,
    router: ROUTERS[router](),
    shared: 9,
    losses: LOSSES[router] ?? { balance: 0.1, gshard: 0.2, importance: 0.3, z: 0.1 },
    ...(modules
      ? { experts: Array.from({ length: E }, (_, i) => new MLP([D, 5 + i, D])) }
      : { experts: E, hidden: 20, bias: true, activation: 'swiglu' as const }),
    ...(free && (router === 'top-k' || router === 'softmax after') && { active: E - 2 }),
  });
  const { chunks, ...rest } = knobs,
    byRows = knobs.dispatch === 'ragged' || knobs.dispatch === 'padded';
  Object.assign(moe, rest, byRows && !modules && { chunks });
  return moe;
}
