// The types of a session's calls: options, the result of a step, batches split into parts.
import { isFloat, type TypedArray } from '../base/dtype.ts';
import { checkSeed } from '../base/random.ts';
import { UserError } from '../base/errors.ts';
import { checkOptions, refuseUnused, type KeysOf } from '../base/options.ts';
import { aLimit, aFlag, aFunction, anObject, aNumber, anything, aText, needed, oneOf } from '../base/kinds.ts';
import type { Batch, HostTensor } from '../base/tensor.ts';
import type { Tensor } from '../graph/tensor.ts';
import type { Loss } from '../nn/loss.ts';
import type { Ranks } from '../device/ranks.ts';
import type { Optimizer } from '../optim/optimizer.ts';
import type { Agreement } from '../recompile/agreement.ts';
import type { RecompileEvent } from '../recompile/rule.ts';
import { FLAG } from '../optim/updates.ts';
import type { Executor, Runnable } from '../run/executor.ts';
import { perSample } from './copies.ts';
import { PRECISIONS, type DeviceName, type Precision } from './platform.ts';

/** A model that a session can train: one tensor in, one out. */
export interface Model {
  forward(x: Tensor): Tensor;
  /**
   * Says that x [batch, time] holds sequences of up to `longest` elements, and that `forward` also takes them as rows:
   * x [rows], in one dimension that is segmented by sample, gives [rows, ...]. Then one program serves all lengths.
   */
  readonly sequences?: { readonly longest: number };
}

export interface CompileOptions {
  readonly loss: Loss;
  /** Needed for `step`. */
  readonly optimizer?: Optimizer;
  /**
   * Default `auto`: an NVIDIA GPU (`cuda`) if there is one and `threads` is not given, else native if a C compiler is
   * found, else wasm. float32 results have the same bits on all of them. `cuda:1` and `cuda:GPU-8f2c` choose a GPU, by
   * its number or the beginning of its UUID.
   */
  readonly device?: DeviceName;
  /**
   * What is stored in 16 bits; default 'float32': nothing. 'bfloat16': activations, and what is saved for gradients.
   * 'bfloat16-weights': also weights, embeddings, heads and their moments. Sums, routers, softmax, norms and losses
   * are computed in float32 in any case.
   */
  readonly precision?: Precision;
  /** Maximum number of CPU threads; default: all cores. The reference device and GPUs use one. */
  readonly threads?: number;
  /**
   * Random seed for initial weights, dropout and noise: a whole number from 0 to 4294967295; default 0. Loading a
   * checkpoint also loads its seed, so the next step computes what it would have computed in the run that saved it.
   */
  readonly seed?: number;
  /**
   * Gradient accumulation: splits each batch into this many equal micro-batches and averages their gradients, weighted
   * by what the loss counts in each; default 1. Loss, gradient and random numbers are those of the whole batch.
   * Computed per micro-batch: capacities of experts, auxiliary losses (averaged evenly), statistics of BatchNorm,
   * remembered choices.
   */
  readonly accumulate?: number;
  /**
   * Splits each (micro-)batch into up to this many equal parts, fewer if its size is not divisible; default 1. Unlike
   * `accumulate`, it can be changed later: by `session.batching.split`, or by a rule. Results are those of
   * `accumulate: accumulate * split`, and the same things are computed per part.
   */
  readonly split?: number;
  /** Memory limit for weights, optimizer and activations in bytes; default: what is free. */
  readonly memory?: number;
  /**
   * Whether steps also compute the statistics that only rules read (gateEntropy and secondGateWeight of MoE layers);
   * default: only if there are rules.
   */
  readonly observe?: boolean;
  /** Called with every decision to recompile. */
  readonly events?: (event: RecompileEvent) => void;
  /** Agreement between processes that train one model together; default: a single process. */
  readonly agreement?: Agreement;
  /**
   * Processes that train this model together, from `openRanks`: 1, 2, 4 or 8; null or absent: this one alone. Each
   * makes the same model, options and calls, and passes the same batches, of which it computes its share. Results and
   * checkpoints have the bits of one process. Calls that fail do so on all of them. Only the native device. Rules must
   * decide alike on every rank.
   */
  readonly ranks?: Ranks | null;
  /**
   * Which expert is in each slot, by number of experts: { 4: [2, 0, 3, 1] }. Of R ranks, rank r computes the experts in
   * the r-th part of the slots, where R divides their number. Results do not depend on it. Default: in order.
   */
  readonly placement?: Readonly<Record<string, readonly number[]>>;
  /**
   * Called with one line of text where `auto` found no C compiler, a checkpoint came from another optimiser, and once
   * for each rule that fails; default console.warn. topic 'rule': a failing rule, which is also reported to `events`.
   */
  readonly say?: (line: string, topic?: 'rule') => void;
}
const KEYS: KeysOf<CompileOptions> = {
  loss: needed(aFunction),
  optimizer: anything,
  device: aText,
  precision: oneOf(...PRECISIONS),
  threads: aNumber,
  seed: anything,
  accumulate: anything,
  split: aNumber,
  memory: aLimit,
  observe: aFlag,
  events: aFunction,
  agreement: anObject,
  ranks: anything,
  placement: anObject,
  say: aFunction,
};

export interface StepResult {
  /** The number of the step; the first is 1. */
  readonly step: number;
  /** The main loss, without auxiliary losses. */
  readonly loss: number;
  /** Auxiliary losses by name, before their coefficient: { 'blocks.0.moe/balance': 1.02 }. */
  readonly aux: Readonly<Record<string, number>>;
  /**
   * Statistics by name: { 'blocks.0.moe/load': int32 [experts] }. With `accumulate`, counts are summed over the parts
   * and other statistics are averaged with equal weights.
   */
  readonly stats: Readonly<Record<string, HostTensor>>;
  readonly gradNorm: number;
}

/** A step whose loss or gradient was not finite. The step changed nothing. */
export class NonFiniteError extends UserError {
  override readonly name: string = 'NonFiniteError';
  readonly step: number;
  constructor(step: number, what: string, op: string | null) {
    super(
      `step ${step}: the ${what} is not finite${op ? `; first produced by ${op}` : ''}; nothing was stored`,
      'lower the learning rate, clip gradients, or look at the data of this step: a class or token out of range ' +
        'gives NaN',
    );
    this.step = step;
  }
}

/** A part of a step that has run: outputs, program, inputs. */
export type RanPart = readonly [
  out: Readonly<Record<string, HostTensor>>,
  program: Runnable,
  inputs: Readonly<Record<string, TypedArray>>,
];

/**
 * null, or a NonFiniteError by promise if the flag says that the part was not stored; the error names the first op
 * whose result is not finite.
 */
export function checkFinite(executor: Executor, step: number, [out, program, inputs]: RanPart): Promise<never> | null {
  const flag = Number(out['flag'].data[0]);
  if (flag === 0) return null;
  return executor.diagnose(program, inputs).then((op) => {
    throw new NonFiniteError(step, flag & FLAG.loss ? 'loss' : 'gradient', op);
  });
}

export const shapesOf = ({ x, y }: Batch): string => [x, y].map((t) => `${t.dtype}[${t.shape.join()}]`).join(' ');
/** The family of a program: its purpose and the shapes of the batch. */
export const familyOf = (purpose: string, batch: Batch): string => `${purpose} ${shapesOf(batch)}`;

/** Separates outputs from statistics of layers, whose names lose the prefix `stat:`. */
export function splitStats(out: Readonly<Record<string, HostTensor>>): {
  plain: Record<string, HostTensor>;
  stats: Record<string, HostTensor>;
} {
  const plain: [string, HostTensor][] = [],
    stats: [string, HostTensor][] = [];
  for (const [name, value] of Object.entries(out))
    if (name.startsWith('stat:')) stats.push([name.slice(5), value]);
    else plain.push([name, value]);
  return { plain: Object.fromEntries(plain), stats: Object.fromEntries(stats) };
}

/** Statistics of a batch from those of its parts: integer counts are summed, floats are averaged. */
function mergedStats(parts: readonly Readonly<Record<string, HostTensor>>[]): Record<string, HostTensor> {
  if (parts.length === 1) return parts[0];
  return Object.fromEntries(
    Object.entries(parts[0]).map(([name, first]) => {
      const data = first.data.slice(),
        count = data.length;
      for (let i = 0; i < count; i++) {
        const sum = parts.reduce((n, p) => n + Number(p[name].data[i]), 0);
        data[i] = isFloat(first.dtype) ? sum / parts.length : sum;
      }
      return [name, { ...first, data }];
    }),
  );
}

/** The result of a step, from the outputs of its parts and the statistics among them. */
export function resultOf(
  step: number,
  parts: readonly Readonly<Record<string, HostTensor>>[],
  stats: readonly Readonly<Record<string, HostTensor>>[],
): StepResult {
  const average = (name: string): number => parts.reduce((n, p) => n + Number(p[name].data[0]), 0) / parts.length;
  const last = parts[parts.length - 1],
    aux = Object.keys(last).filter((n) => n.startsWith('aux:'));
  return {
    step,
    loss: average('loss'),
    gradNorm: Number(last['grad_norm']?.data[0] ?? NaN),
    aux: Object.fromEntries(aux.map((n) => [n.slice(4), average(n)])),
    stats: mergedStats(stats),
  };
}

/**
 * The phase of a micro-batch: 'add' accumulates gradients, 'apply' (the last one) also updates. undefined: a whole
 * batch.
 */
export type Phase = 'add' | 'apply' | undefined;
export const phaseOf = (i: number, parts: number): Phase => (parts === 1 ? undefined : i < parts - 1 ? 'add' : 'apply');

/**
 * Inputs of part i of a batch: its number, and an offset for random numbers that are not tied to elements of the
 * batch.
 */
export const numbersOf = (i: number, parts: number): Record<string, Uint32Array<ArrayBuffer>> =>
  parts === 1 ? {} : { part: Uint32Array.of(i), apart: Uint32Array.of(i * Math.floor(2 ** 32 / parts)) };

export function splitBatch(batch: Batch, parts: number): Batch[] {
  if (parts === 1) return [batch];
  const size = batch.x.shape[0];
  if (size % parts !== 0)
    throw new UserError(`a batch of ${size} cannot be split into ${parts} equal micro-batches (accumulate)`);
  const cut = (t: HostTensor, i: number): HostTensor => {
    const step = t.data.length / parts;
    return {
      dtype: t.dtype,
      shape: [size / parts, ...t.shape.slice(1)],
      data: t.data.subarray(i * step, (i + 1) * step),
    };
  };
  const each = size / parts;
  return Array.from({ length: parts }, (_, i) => ({
    x: cut(batch.x, i),
    y: cut(batch.y, i),
    ...perSample(batch, i * each, (i + 1) * each),
  }));
}

export const closedError = (): UserError =>
  new UserError('this session is closed', 'call close() after the last use of it');

const CALL = 'compile(model, { loss: loss.crossEntropy, optimizer: optim.adamW({ lr: 1e-3 }) })';

/** Checks the arguments of `compile` at run time, for callers without types. */
export function checkCall(model: unknown, options: CompileOptions): void {
  const { forward } = (model ?? {}) as { forward?: unknown },
    { loss, optimizer, seed, accumulate } = (options ?? {}) as {
      loss?: unknown;
      optimizer?: unknown;
      seed?: unknown;
      accumulate?: unknown;
    };
  if (typeof forward !== 'function')
    throw new UserError(
      'compile: the model has no function forward(x)',
      'a module of nn, or an object with forward(x: Tensor): Tensor',
    );
  if (typeof loss !== 'function') throw new UserError('compile: there is no loss', CALL);
  checkOptions('compile', options, KEYS);
  const steps = optimizer === undefined && 'without an optimizer there are no steps';
  refuseUnused('compile', options, { accumulate: steps, split: steps, agreement: steps });
  const { update } = (optimizer ?? {}) as { update?: unknown },
    count = (name: string, value: unknown, least: number): void => {
      if (value === undefined || (typeof value === 'number' && Number.isSafeInteger(value) && value >= least)) return;
      throw new UserError(
        `compile: ${name} must be a whole number of at least ${least}, got ` +
          `${typeof value === 'number' ? value : typeof value}`,
      );
    };
  if (optimizer !== undefined && typeof update !== 'function')
    throw new UserError('compile: the optimizer has no function update, so it is not an optimizer', CALL);
  if (seed !== undefined) checkSeed('compile', seed);
  count('accumulate', accumulate, 1);
}
