// The settings of an MoE layer: what there is, and what has an effect beside what.
import { checkOptions, refuseUnused, type KeysOf } from '../../base/options.ts';
import {
  aFlag,
  aList,
  anObject,
  anObjectWith,
  aNumber,
  aSize,
  aText,
  atLeast0,
  either,
  needed,
  oneOf,
} from '../../base/kinds.ts';
import type { Tensor } from '../../graph/tensor.ts';
import type { Module } from '../../trace/module.ts';
import type { Capacity } from './capacity.ts';
import { ACTIVATIONS, type Activation } from './experts.ts';
import type { LossName } from './losses.ts';
import type { RoutingMode } from './memory.ts';
import type { Router } from './router.ts';
import { unusedBeyond, type Overflow, type Priority } from './routing.ts';
import type { Dispatch } from './strategies.ts';

export interface MoEOptions {
  readonly dModel: number;
  /**
   * How many experts in a bank of feed-forward networks, or any modules of any shapes, each [rows, dModel] -> [rows,
   * one width].
   */
  readonly experts: number | readonly Module<Tensor, Tensor>[];
  /**
   * How many slots hold an expert from the start, the first ones; default all. The others are free, for splits to come.
   */
  readonly active?: number;
  /** Experts a token. */
  readonly topK: number;
  /** Width of an expert's hidden layer: for a bank. */
  readonly hidden?: number;
  readonly activation?: Activation;
  readonly bias?: boolean;
  /** Default: a TopKRouter. */
  readonly router?: Router;
  /** 'dropless' (default), a factor on the even share of rows, or a factor for each expert. */
  readonly capacity?: Capacity;
  readonly overflow?: Overflow;
  readonly priority?: Priority;
  readonly dispatch?: Dispatch;
  /** Rows that an expert usually gets, a power of 2, for which kernels are made; 0, the default: not known. */
  readonly expertRows?: number;
  /**
   * Whether samples with ids have their choices remembered ('watched'), and taken from there in later epochs
   * ('cached'); default 'live'.
   */
  readonly routing?: RoutingMode;
  /**
   * How many samples are remembered at most (slots, id mod slots); default 65536. About a byte a choice, and 4 a
   * sample, of state.
   */
  readonly remember?: number;
  /** While cached, the live choices of one sample in so many are computed, compared and remembered; default 16. */
  readonly audit?: number;
  /**
   * Hidden values of experts are not kept for gradients but computed again: less memory, more time, the same bits;
   * default false.
   */
  readonly recompute?: boolean;
  /**
   * Parts (of 64 rows at least) in which a bank goes through its rows, with room for the hidden values of one; default
   * 1. Hidden values of more than one are computed again.
   */
  readonly chunks?: number;
  /** Experts whose parameters are excluded from training: all, or a flag for each; default false. */
  readonly frozen?: boolean | readonly boolean[];
  /** Whether the router's parameters are excluded from training; default false. */
  readonly gateFrozen?: boolean;
  /** Experts that are always on: the width of one more feed-forward network, or a module. */
  readonly shared?: number | Module<Tensor, Tensor>;
  /**
   * Divides the k gate weights by their sum; default: whether `topK` is above 1 here. It stays when `topK` changes. (Of
   * the default router.)
   */
  readonly normalise?: boolean;
  /** Coefficient of the Switch auxiliary loss; default 0.01 with the default router, else 0. */
  readonly balance?: number;
  /** Coefficient of the router's z-loss; default 0.001 with the default router, else 0. */
  readonly zLoss?: number;
  /** Coefficients by name, in place of the two above. */
  readonly losses?: Partial<Record<LossName, number>>;
  readonly outStd?: number;
}
/** What kind of value each option takes. */
export const MOE_OPTIONS: KeysOf<MoEOptions> = {
  dModel: needed(aSize),
  experts: needed(either(aNumber, aList)),
  active: aNumber,
  topK: needed(aNumber),
  hidden: aSize,
  activation: oneOf(...ACTIVATIONS),
  bias: aFlag,
  router: anObjectWith('choose'),
  capacity: either(aNumber, aText, aList),
  overflow: aText,
  priority: aText,
  dispatch: aText,
  expertRows: aNumber,
  routing: aText,
  remember: aNumber,
  audit: aNumber,
  recompute: aFlag,
  chunks: aNumber,
  frozen: either(aFlag, aList),
  gateFrozen: aFlag,
  shared: either(aSize, anObjectWith('forward')),
  normalise: aFlag,
  balance: atLeast0,
  zLoss: atLeast0,
  losses: anObject,
  outStd: atLeast0,
};

/**
 * Throws UserError for a key that there is not, and for a setting that has no effect beside the others. Those of the
 * knobs that rules may change later have one all the same.
 */
export function checkSettings(options: MoEOptions): void {
  checkOptions('MoE', options, MOE_OPTIONS);
  const { experts, router, shared, losses } = options,
    modules = typeof experts !== 'number' && 'the experts are modules of their own';
  const chosen = 'experts choose tokens, as many as their capacity says, by probability';
  refuseUnused('MoE', options, {
    hidden: modules,
    bias: modules,
    outStd: modules,
    activation: typeof shared === 'number' ? null : modules,
    normalise: router && 'the router that is given weights its choices itself',
    balance: losses && 'losses says all coefficients',
    zLoss: losses && 'losses says all coefficients',
    ...(router?.expertsChoose === true ? { overflow: chosen, priority: chosen } : unusedBeyond(options)),
  });
}
