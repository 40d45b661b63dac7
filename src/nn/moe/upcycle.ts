// Converts tensors of one model into those of another: a dense feed-forward layer becomes a mixture (Komatsuzaki et al.
// 2022), and a mixture gets more or fewer experts. In: named tensors of a checkpoint, including the optimiser's
// moments; out: a new map, in which unchanged tensors are the same objects.
import { UserError } from '../../base/errors.ts';
import { checkOptions, refuseUnused, type KeysOf } from '../../base/options.ts';
import { aList, aName, aNumber, anything, atLeast0, aWhole, needed } from '../../base/kinds.ts';
import { Stream } from '../../base/random.ts';
import { numbersOf } from '../../base/convert.ts';
import { hostTensor, type HostTensor } from '../../base/tensor.ts';
import { readSlots, type SlotsValue } from './slots.ts';

export type NamedTensors = ReadonlyMap<string, HostTensor>;

/** The dtype's own array of `length` elements. */
const like = (t: HostTensor, length: number): HostTensor['data'] =>
  new (t.data.constructor as new (n: number) => HostTensor['data'])(length);

/** Parts of t along an axis, in the order of `from`, one after the other. */
function take(t: HostTensor, axis: number, from: readonly number[]): HostTensor {
  const inner = t.shape.slice(axis + 1).reduce((n, d) => n * d, 1),
    outer = t.shape.slice(0, axis).reduce((n, d) => n * d, 1),
    size = t.shape[axis];
  const data = like(t, outer * from.length * inner);
  for (let o = 0; o < outer; o++)
    from.forEach((e, i) => {
      data.set(t.data.subarray((o * size + e) * inner, (o * size + e + 1) * inner), (o * from.length + i) * inner);
    });
  return { dtype: t.dtype, shape: t.shape.map((d, i) => (i === axis ? from.length : d)), data };
}

export interface UpcycleOptions {
  /** Path of the dense layer (its Linear layers are `up` and `down`) and of the mixture in its place. */
  readonly from: string;
  readonly to: string;
  readonly experts: number;
  /** Standard deviation of the router's starting weights; default 0.02. */
  readonly routerStd?: number;
  readonly seed?: number;
}
const UPCYCLE_KEYS: KeysOf<UpcycleOptions> = {
  from: needed(aName),
  to: needed(aName),
  experts: needed(aWhole(1, 2 ** 20)),
  routerStd: atLeast0,
  seed: anything,
};

/**
 * Every expert becomes a copy of the dense layer; the router starts with small random weights. With normalised weights
 * (default for k > 1) the outputs of the model stay the same. Moments of the dense layer's weights are left out, so
 * they start at 0.
 */
export function upcycle(tensors: NamedTensors, options: UpcycleOptions): Map<string, HostTensor> {
  checkOptions('upcycle', options, UPCYCLE_KEYS);
  const { from, to, experts, routerStd = 0.02, seed = 0 } = options;
  const out = new Map(tensors),
    names = { 'up.weight': 'w1', 'down.weight': 'w2', 'up.bias': 'b1', 'down.bias': 'b2' } as const;
  for (const [dense, own] of Object.entries(names)) {
    const name = `${from}.${dense}`,
      t = tensors.get(name);
    if (!t && dense.endsWith('weight'))
      throw new UserError(
        `upcycle: there is no tensor ${name}`,
        'from is the path of a layer with `up` and `down`, such as blocks.0.mlp',
      );
    if (t)
      out.set(`${to}.experts.${own}`, take({ ...t, shape: [1, ...t.shape] }, 0, new Array<number>(experts).fill(0)));
  }
  for (const name of tensors.keys()) if (name.startsWith(`${from}.`) || name.includes(`/${from}.`)) out.delete(name);
  const up = tensors.get(`${from}.up.weight`),
    width = up?.shape[0] ?? 0,
    dtype = up?.dtype ?? 'float32',
    stream = new Stream(seed, `${to}.router.weight`);
  out.set(
    `${to}.router.weight`,
    hostTensor(
      dtype,
      [width, experts],
      Array.from({ length: width * experts }, (_, i) => routerStd * stream.normal(0, i)),
    ),
  );
  return out;
}

export interface ResizeOptions {
  /** Path of the mixture. */
  readonly moe: string;
  /**
   * For each expert of the result, the one that it is a copy of: [0, 1, 2, 3, 0, 1, 2, 3] doubles four, [0, 2] keeps
   * two.
   */
  readonly from: readonly number[];
  /**
   * Standard deviation of noise that is added to the router's vectors of copies after the first, so that the copies
   * become different experts; default 0.
   */
  readonly noise?: number;
  /** Seed of the noise. */
  readonly seed?: number;
}
const RESIZE_KEYS: KeysOf<ResizeOptions> = { moe: needed(aName), from: needed(aList), noise: aNumber, seed: anything };

/** Changes the number of experts. Each expert keeps its parameters, their moments, and the router's vector and bias. */
export function resizeExperts(tensors: NamedTensors, options: ResizeOptions): Map<string, HostTensor> {
  checkOptions('resizeExperts', options, RESIZE_KEYS);
  const { moe, from, noise = 0, seed = 0 } = options;
  if (!(noise >= 0 && Number.isFinite(noise)))
    throw new UserError(`resizeExperts: noise must be a number of at least 0, got ${noise}`);
  refuseUnused('resizeExperts', options, { seed: noise === 0 && 'nothing is drawn without `noise`' });
  const out = new Map(tensors),
    router = tensors.get(`${moe}.router.weight`),
    bank = tensors.get(`${moe}.experts.w1`),
    experts = router?.shape[1] ?? bank?.shape[0];
  if (experts === undefined || !bank)
    throw new UserError(
      `resizeExperts: ${moe} is no mixture with a bank of experts`,
      `there is no tensor ${moe}.experts.w1`,
    );
  const bad = from.find((e) => !Number.isInteger(e) || e < 0 || e >= experts);
  if (bad !== undefined || from.length === 0)
    throw new UserError(`resizeExperts: from must name experts 0 to ${experts - 1}, got [${from.join(', ')}]`);
  // For each tensor of the layer, its dimension of experts.
  const axes: readonly (readonly [string, number])[] = [
    ['experts.w1', 0],
    ['experts.w2', 0],
    ['experts.b1', 0],
    ['experts.b2', 0],
    ['router.weight', 1],
    ['router.noise', 1],
    ['router.bias', 0],
  ];
  for (const [name, t] of tensors) {
    const found = axes.find(([own]) => name === `${moe}.${own}` || name.endsWith(`/${moe}.${own}`));
    if (found) out.set(name, take(t, found[1], from));
  }
  const fresh = out.get(`${moe}.router.weight`);
  if (noise > 0 && fresh) {
    const stream = new Stream(seed, `${moe}.router.weight`);
    const weights = Array.from(numbersOf(fresh), (w, i) => {
      const e = i % from.length;
      return from.indexOf(from[e]) === e ? w : w + noise * stream.normal(0, i);
    });
    out.set(`${moe}.router.weight`, hostTensor(fresh.dtype, fresh.shape, weights));
  }
  return out;
}

export interface CompactOptions {
  /** Path of the mixture, and its knob `slots`. */
  readonly moe: string;
  readonly slots: SlotsValue;
}
const COMPACT_KEYS: KeysOf<CompactOptions> = { moe: needed(aName), slots: needed(aList) };

/**
 * Removes free slots from a mixture, which then computes the same outputs. Throws UserError if some experts are copies
 * of one another: a token gets at most one of a group of copies, but could get several of the same experts afterwards.
 */
export function compactExperts(tensors: NamedTensors, options: CompactOptions): Map<string, HostTensor> {
  checkOptions('compactExperts', options, COMPACT_KEYS);
  const { moe, slots } = options,
    { families } = readSlots(slots),
    copy = families.findIndex((family, e) => family !== null && family !== e);
  if (copy >= 0)
    throw new UserError(
      `compactExperts: experts ${families[copy]} and ${copy} of ${moe} are copies of one another`,
      'merge or prune one of them first (mergeExperts, pruneExpert)',
    );
  return resizeExperts(tensors, { moe, from: families.flatMap((family, e) => (family === null ? [] : [e])) });
}
