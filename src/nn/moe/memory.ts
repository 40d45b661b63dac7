// Remembers which experts each sample chose, from epoch to epoch, by sample id. In: an MoE layer's tokens in a training
// step whose batch has ids; out: choices for the router to use, how many of the router's own choices agree with the
// remembered ones, and a memory that is written when the step commits.
//
// watched: the router's own (live) choices are used, and compared with the remembered ones. cached: choices of
// remembered samples come from the memory, so that rows can be sorted by expert without waiting for the router. The
// router chooses only for samples that are not remembered, and for one sample in `audit`, whose live choices are
// compared and remembered. Gate weights always come from the router.
import { boundOf } from '../../base/shape.ts';
import { UserError } from '../../base/errors.ts';
import type { HostTensor } from '../../base/tensor.ts';
import { scalar, type Tensor } from '../../graph/tensor.ts';
import { add } from '../../graph/ops/elementwise/add.ts';
import { cast } from '../../graph/ops/elementwise/cast.ts';
import { concat } from '../../graph/ops/shape/concat.ts';
import { div } from '../../graph/ops/elementwise/div.ts';
import { equal } from '../../graph/ops/elementwise/equal.ts';
import { floor } from '../../graph/ops/elementwise/floor.ts';
import { iota } from '../../graph/ops/create/iota.ts';
import { less } from '../../graph/ops/elementwise/less.ts';
import { logicalAnd } from '../../graph/ops/elementwise/logicalAnd.ts';
import { mul } from '../../graph/ops/elementwise/mul.ts';
import { permute, type Permutation } from '../../graph/ops/moe/permute.ts';
import { permuteUnless } from '../../graph/ops/moe/permuteUnless.ts';
import { bitsOf, recall, recalls, wordsOf, type MemoryAttrs } from '../../graph/ops/moe/recall.ts';
import { remember } from '../../graph/ops/moe/remember.ts';
import { reshape } from '../../graph/ops/shape/reshape.ts';
import { stopGradient } from '../../graph/ops/elementwise/stopGradient.ts';
import { sum } from '../../graph/ops/reduce/sum.ts';
import { takeAlong } from '../../graph/ops/shape/takeAlong.ts';
import { topK } from '../../graph/ops/reduce/topK.ts';
import { topKUnless } from '../../graph/ops/moe/topKUnless.ts';
import { where } from '../../graph/ops/elementwise/where.ts';
import { traceOf, type Trace } from '../../trace/trace.ts';
import { random } from './router.ts';

/**
 * live: nothing is remembered. watched: the same results as live, bit by bit, and choices are remembered. cached:
 * choices come from the memory.
 */
export const ROUTINGS = ['live', 'watched', 'cached'] as const;
export type RoutingMode = (typeof ROUTINGS)[number];

export interface MemoryOptions {
  readonly routing: RoutingMode;
  readonly experts: number;
  readonly k: number;
  /** Slots of the memory. */
  readonly remember: number;
  /** One sample in this many is audited: the router chooses for it again, and both choices are compared. */
  readonly audit: number;
  /**
   * Whether some slots cannot be chosen: their scores are -infinity. A sample whose remembered choices contain such a
   * slot counts as not remembered.
   */
  readonly closed: boolean;
}

/** The name of a memory's state. It contains the layout, so that another k or number of tokens has another state. */
const nameOf = (path: string, { tokens, k }: MemoryAttrs, slots: number, experts: number): string =>
  `assigned/choices/${path}/${slots}x${tokens}x${k}of${experts}`;
const NAME = /^assigned\/choices\/(.*)\/(\d+)x(\d+)x(\d+)of(\d+)$/;

export class ChoiceMemory {
  readonly #owner: object;
  readonly #trace: Trace;
  readonly #options: MemoryOptions;
  readonly #layout: MemoryAttrs;
  readonly #ids: Tensor; // int32 [samples]
  readonly #table: Tensor; // uint32 [slots, words]
  readonly #recalled: Tensor; // int32 [rows, k]
  readonly #known: Tensor; // int32 [samples]
  #usable: Tensor; // int32 [samples]: 1 for known samples whose remembered choices can all be used
  readonly #sorted: Permutation | null;
  #live: Tensor | null = null;

  /** null if nothing is remembered: outside training, or if the batch has no ids. */
  static of(owner: object, tokens: Tensor, options: MemoryOptions): ChoiceMemory | null {
    const trace = traceOf(tokens),
      ids = options.routing !== 'live' && trace.training ? trace.sampleIds() : null;
    return ids && new ChoiceMemory(owner, tokens, ids, options);
  }

  private constructor(owner: object, x: Tensor, ids: Tensor, options: MemoryOptions) {
    const { experts, k, remember: slots, routing } = options,
      rows = boundOf(x.shape[0]),
      samples = boundOf(ids.shape[0]),
      trace = traceOf(x),
      path = trace.pathOf(owner);
    if (typeof x.shape[0] !== 'number')
      throw new UserError(
        `${path}: choices can be remembered only in batches whose number of tokens is fixed, not ${x.toString()}`,
        "leave routing 'live' here",
      );
    if (rows % samples !== 0)
      throw new UserError(
        `${path}: ${rows} tokens of ${samples} samples: choices can be remembered only if every sample has the same ` +
          `number of tokens, one after the other`,
        "leave routing 'live' here",
      );
    this.#layout = { tokens: rows / samples, k, bits: bitsOf(experts) };
    const name = nameOf(path, this.#layout, slots, experts);
    if (trace.inputs.some((i) => i.name === name))
      throw new UserError(
        `${path}: the layer is called twice in a step, but it can remember only one choice for each token of a sample`,
        "leave routing 'live' here",
      );
    this.#owner = owner;
    this.#trace = trace;
    this.#options = options;
    this.#ids = ids;
    this.#table = trace.state(name, { dtype: 'uint32', shape: [slots, wordsOf(this.#layout)] });
    this.#recalled = recall(this.#table, ids, this.#layout);
    this.#known = recalls(this.#table, ids, this.#layout);
    this.#usable = this.#known;
    this.#sorted = routing === 'cached' ? permute(this.#recalled, experts) : null;
  }

  /** Choices by scores [rows, experts]: int32 [rows, k]. */
  pick(scores: Tensor): Tensor {
    const { k } = this.#options,
      [rows] = this.#recalled.shape.map(boundOf),
      { tokens } = this.#layout,
      samples = rows / tokens;
    if (!this.#sorted) return (this.#live = topK(scores, k).indices);
    if (this.#options.closed) {
      const open = less(scalar(scores, -Infinity), takeAlong(stopGradient(scores), this.#recalled)),
        closed = where(open, scalar(scores, 0), scalar(scores, 1));
      this.#usable = where(
        equal(sum(reshape(closed, [samples, tokens * k]), [1]), 0),
        this.#known,
        scalar(this.#known, 0),
      );
    }
    this.#live = topKUnless(scores, this.#recalled, where(this.#audited(), scalar(this.#usable, 0), this.#usable));
    const bySample = (x: Tensor): Tensor => reshape(x, [samples, tokens, k]),
      taken = equal(reshape(this.#usable, [samples, 1, 1]), scalar(this.#usable, 1));
    return reshape(where(taken, bySample(this.#recalled), bySample(this.#live)), [rows, k]);
  }

  /** The choices that `pick` gave, sorted by expert, if the sorting of remembered ones can be used; else null. */
  sorted(indices: Tensor): Permutation | null {
    return this.#sorted && permuteUnless(indices, this.#sorted, this.#usable, this.#options.experts);
  }

  /** Which samples are audited, bool [samples]: one in `audit`, at positions in the batch that change at each step. */
  #audited(): Tensor {
    const { audit } = this.#options,
      place = cast(iota(this.#known, 0), 'float32');
    const start = floor(mul(random(scalar(place, 0), this.#owner, 'audit'), audit)),
      round = div(add(place, start), audit);
    return equal(floor(round), round);
  }

  /**
   * Called after `pick`. Writes the memory and reports `agreement` int32 [2]: how many remembered choices are still
   * among the live ones, and how many were compared.
   */
  finish(): void {
    const live = this.#live;
    if (!live)
      throw new UserError(
        `${this.#trace.pathOf(this.#owner)}: its router chose experts without calling \`pick\``,
        "leave routing 'live', or let choose() call `pick` in place of topK",
      );
    const { tokens, k } = this.#layout,
      samples = boundOf(this.#ids.shape[0]),
      known = equal(this.#known, scalar(this.#known, 1)),
      compared = this.#sorted ? logicalAnd(known, this.#audited()) : known;
    const same = equal(reshape(this.#recalled, [samples, tokens, k, 1]), reshape(live, [samples, tokens, 1, k]));
    const ones = (condition: Tensor): Tensor =>
      where(condition, scalar(this.#table, 1, 'float32'), scalar(this.#table, 0, 'float32'));
    const counts = [
      sum(ones(logicalAnd(same, reshape(compared, [samples, 1, 1, 1])))),
      mul(sum(ones(compared)), tokens * k),
    ];
    this.#trace.addStat(
      this.#owner,
      'agreement',
      cast(
        concat(
          counts.map((n) => reshape(n, [1])),
          0,
        ),
        'int32',
      ),
    );
    this.#trace.update(this.#table, remember(this.#table, this.#ids, live, this.#layout));
  }
}

/** The remembered choices of a layer, as a session reads them. */
export interface Assignments {
  readonly experts: number;
  /** How many tokens a sample has, and how many experts a token. */
  readonly tokens: number;
  readonly k: number;
  /** Ids of the samples that are remembered, ascending. */
  readonly ids: Int32Array;
  /** Experts of a sample's tokens, int32 [tokens * k]; null: the sample is not remembered. */
  of(id: number): Int32Array | null;
}

/** The name, among `names` of states, of the memory of the layer at `path`; null: there is none. */
export function memoryState(
  names: readonly string[],
  path: string,
  { k, slots }: { readonly k: number; readonly slots: number },
): string | null {
  return (
    names.find((name) => {
      const m = NAME.exec(name);
      return m !== null && m[1] === path && Number(m[2]) === slots && Number(m[4]) === k;
    }) ?? null
  );
}

/**
 * Which elements of a memory's state a step with these sample ids may write, as ranges; null: the state of this name is
 * no memory.
 */
export function rowsOf(name: string, ids: ArrayLike<number>): { at: number; count: number }[] | null {
  const m = NAME.exec(name);
  if (!m) return null;
  const [slots, tokens, k, experts] = m.slice(2).map(Number),
    count = wordsOf({ tokens, k, bits: bitsOf(experts) });
  return [...new Set(Array.from(ids, (id) => (id >>> 0) % slots))].map((slot) => ({ at: slot * count, count }));
}

/** Decodes the state of a memory. */
export function assignmentsOf(name: string, { data }: HostTensor): Assignments {
  const [slots, tokens, k, experts] = (NAME.exec(name) ?? []).slice(2).map(Number),
    bits = bitsOf(experts),
    words = wordsOf({ tokens, k, bits }),
    each = 32 / bits;
  const row = (id: number): number => ((id >>> 0) % slots) * words,
    known = (id: number): boolean => id >= 0 && Number(data[row(id)]) === id + 1;
  const ids = Int32Array.from({ length: slots }, (_, s) => Number(data[s * words]) - 1)
    .filter((id) => id >= 0)
    .sort();
  return {
    experts,
    tokens,
    k,
    ids,
    of: (id) =>
      known(id)
        ? Int32Array.from(
            { length: tokens * k },
            (_, c) =>
              Math.floor(Number(data[row(id) + 1 + Math.floor(c / each)]) / 2 ** (bits * (c % each))) % 2 ** bits,
          )
        : null,
  };
}
