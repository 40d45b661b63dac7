// The interface of datasets: samples with stable ids. For training they come as endless shuffled batches, for
// validation as one ordered pass over held-out samples. A batch is a pure function of (dataset, seed, step), so that a
// run can be resumed exactly.
import type { KeysOf } from '../base/options.ts';
import { aFunction, aNumber, aWhole, needed, oneOf } from '../base/kinds.ts';
import type { Batch } from '../base/tensor.ts';

/** 'train': the samples that a model is trained on. 'validation' and 'test' both mean the held-out samples. */
export type Split = 'train' | 'validation' | 'test';

/** All samples of an epoch, 0..count-1, each once, in the order in which batches take them: a pure function. */
export type EpochOrder = (epoch: number, count: number) => ArrayLike<number>;

export interface BatchOptions {
  readonly size: number; // samples in every batch; a batch may span two epochs
  readonly seed?: number; // of the order; 0 by default
  readonly split?: Split; // 'train' by default
  readonly from?: number; // number of the first step; 0 by default. A run that is resumed after n steps passes n
  readonly limit?: number; // number of batches; endless by default
  readonly order?: EpochOrder; // of an epoch's samples; shuffled by seed and epoch by default
}
export const BATCH_KEYS: KeysOf<BatchOptions> = {
  size: needed(aWhole(1)),
  seed: aWhole(0),
  split: oneOf('train', 'validation', 'test'),
  from: aWhole(0),
  limit: aNumber,
  order: aFunction,
};

export interface PassOptions {
  readonly size: number; // samples in a batch; the last batch may have fewer: see its shape
  readonly split?: Split; // 'validation' by default
}
export const PASS_KEYS: KeysOf<PassOptions> = { size: needed(aWhole(1)), split: oneOf('train', 'validation', 'test') };

/** Shuffled batches. Iterating prepares the next batch while the caller works on the current one. */
export interface Batches extends AsyncIterable<Batch> {
  /** The batch of one step. It depends only on data, options and step, not on earlier calls. */
  at(step: number): Promise<Batch>;
  /** Samples in an epoch. Each occurs once in every epoch, under the same id. */
  samples(): Promise<number>;
}

export interface Dataset<B extends BatchOptions = BatchOptions, P extends PassOptions = PassOptions> {
  /**
   * Shuffled batches without end, by (seed, step). Rejects with a UserError when first read if the data is missing or
   * too little.
   */
  batches(options: B): Batches;
  /** Every sample of a split once, in order. */
  pass(options: P): AsyncIterable<Batch>;
  /** 32 hex digits that identify the data. Checkpoints store them, so that a resumed run can refuse other data. */
  fingerprint(): Promise<string>;
}
