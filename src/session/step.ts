// What a session takes and gives: its options, the result of a step, batches in parts.
import { isFloat, type TypedArray } from '../base/dtype.ts';
import { checkSeed } from '../base/random.ts';
import { UserError } from '../base/errors.ts';
import { checkOptions, refuseUnused, type KeysOf } from '../base/options.ts';
import { aLimit, aFlag, aFunction, anObject, aNumber, anything, aText, needed } from '../base/kinds.ts';
import type { Batch, HostTensor } from '../base/tensor.ts';
import type { Tensor } from '../graph/tensor.ts';
import type { Loss } from '../nn/loss.ts';
import type { Optimizer } from '../optim/optimizer.ts';
import type { Agreement } from '../recompile/agreement.ts';
import type { RecompileEvent } from '../recompile/rule.ts';
import { FLAG } from '../optim/updates.ts';
import type { Executor, Runnable } from '../run/executor.ts';
import type { DeviceName } from './platform.ts';

/** A model that a session can train: one tensor in, one out. */
export interface Model {
  forward(x: Tensor): Tensor;
}

export interface CompileOptions {
  readonly loss: Loss;
  /** Needed for `step`. */
  readonly optimizer?: Optimizer;
  /** Default `auto`: native where a C compiler is found, else wasm. float32 has the same bits on both. */
  readonly device?: DeviceName;
  /** At most so many CPU threads; default: as many as the machine has. The reference device uses one. */
  readonly threads?: number;
  /**
   * Random seed for initial weights, dropout and noise: a whole number from 0 to 4294967295; default 0. A checkpoint
   * that is loaded brings its own seed, so that the next step gives what it would have given in the run that saved it.
   */
  readonly seed?: number;
  /** Splits each batch into this many micro-batches of equal size, whose gradients are averaged by what the loss counts
   * in each; default 1. Loss and gradient are those of the whole batch, and so are random numbers. Each micro-batch has
   * its own: capacities of experts, auxiliary losses (averaged evenly), statistics of BatchNorm, remembered choices. */
  readonly accumulate?: number;
  /** Splits each (micro-)batch into up to this many equal parts, fewer where its size cannot be divided by it; default
   * 1. Unlike `accumulate` it may change while the session lives: `session.batching.split`, or a rule. Results are
   * those of `accumulate: accumulate * split`; what is said there stays a part's own. */
  readonly split?: number;
  /** Memory limit for weights, optimizer and activations in bytes; default: what is free. */
  readonly memory?: number;
  /**
   * Whether steps also tell what only rules look at (an MoE layer's gateEntropy and secondGateWeight); default: where
   * there are rules.
   */
  readonly observe?: boolean;
  /** Told of every decision to recompile. */
  readonly events?: (event: RecompileEvent) => void;
  /** Between processes that train one model together; default: one process. */
  readonly agreement?: Agreement;
  /**
   * Told in one line what is worth knowing: `auto` found no C compiler, a checkpoint is of another optimiser, and once
   * for each rule that fails; default console.warn. `topic` 'rule': of a rule that fails, which `events` is told too.
   */
  readonly say?: (line: string, topic?: 'rule') => void;
}
const KEYS: KeysOf<CompileOptions> = {
  loss: needed(aFunction),
  optimizer: anything,
  device: aText,
  threads: aNumber,
  seed: anything,
  accumulate: anything,
  split: aNumber,
  memory: aLimit,
  observe: aFlag,
  events: aFunction,
  agreement: anObject,
  say: aFunction,
};

export interface StepResult {
  /** Its number: 1 for the first. */
  readonly step: number;
  /** The main loss alone. */
  readonly loss: number;
  /** Auxiliary losses by name, unweighted: { 'blocks.0.moe/balance': 1.02 }. */
  readonly aux: Readonly<Record<string, number>>;
  /** Statistics by name: { 'blocks.0.moe/load': int32 [experts] }. With `accumulate`, counts are of the whole batch,
   * others means over its parts, each of which counts as much. */
  readonly stats: Readonly<Record<string, HostTensor>>;
  readonly gradNorm: number;
}

/** A step whose loss or gradient was not finite; nothing was stored. */
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

/** What a part of a step gave, and what ran. */
export type Ran = readonly [
  out: Readonly<Record<string, HostTensor>>,
  program: Runnable,
  inputs: Readonly<Record<string, TypedArray>>,
];

/** Throws NonFiniteError, naming the op that began it, for outputs of a step that was not committed. */
export async function checkFinite(executor: Executor, step: number, ...[out, program, inputs]: Ran): Promise<void> {
  const flag = Number(out['flag'].data[0]);
  if (flag === 0) return;
  throw new NonFiniteError(step, flag & FLAG.loss ? 'loss' : 'gradient', await executor.diagnose(program, inputs));
}

export const shapesOf = ({ x, y }: Batch): string => [x, y].map((t) => `${t.dtype}[${t.shape.join()}]`).join(' ');
/** Programs differ by purpose and shapes (and by settings of knobs). */
export const familyOf = (purpose: string, batch: Batch): string => `${purpose} ${shapesOf(batch)}`;

/** What a program gives beside statistics of layers, and these by name. */
export function apart(out: Readonly<Record<string, HostTensor>>): {
  plain: Record<string, HostTensor>;
  stats: Record<string, HostTensor>;
} {
  const all = Object.entries(out),
    stat = (name: string): boolean => name.startsWith('stat:');
  return {
    plain: Object.fromEntries(all.filter(([n]) => !stat(n))),
    stats: Object.fromEntries(all.filter(([n]) => stat(n)).map(([n, t]) => [n.slice(5), t])),
  };
}

/** Statistics of a batch from those of its parts: counts add up, the others are averaged. */
function together(parts: readonly Readonly<Record<string, HostTensor>>[]): Record<string, HostTensor> {
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

/** Of a step, from the outputs of its parts. */
export function resultOf(step: number, parts: readonly Readonly<Record<string, HostTensor>>[]): StepResult {
  const average = (name: string): number => parts.reduce((n, p) => n + Number(p[name].data[0]), 0) / parts.length;
  const last = parts[parts.length - 1],
    aux = Object.keys(last).filter((n) => n.startsWith('aux:'));
  return {
    step,
    loss: average('loss'),
    gradNorm: Number(last['grad_norm']?.data[0] ?? NaN),
    aux: Object.fromEntries(aux.map((n) => [n.slice(4), average(n)])),
    stats: together(parts.map((p) => apart(p).stats)),
  };
}

/** Of a micro-batch: all but the last add their gradients up. */
export type Phase = 'add' | 'apply' | undefined;
export const phaseOf = (i: number, parts: number): Phase => (parts === 1 ? undefined : i < parts - 1 ? 'add' : 'apply');

/** Of part i of a batch: its number, and where its random numbers begin that have no place in the whole batch. */
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
  const { ids } = batch,
    each = size / parts;
  return Array.from({ length: parts }, (_, i) => ({
    x: cut(batch.x, i),
    y: cut(batch.y, i),
    ...(ids && { ids: ids.slice(i * each, (i + 1) * each) }),
  }));
}

export const closedError = (): UserError =>
  new UserError('this session is closed', 'call close() after the last use of it');

const CALL = 'compile(model, { loss: loss.crossEntropy, optimizer: optim.adamW({ lr: 1e-3 }) })';

/** What TypeScript would have refused. */
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
