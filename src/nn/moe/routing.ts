// From choices of experts to rows: which row goes to which expert, in which order, and which choices are dropped. In:
// int32 [tokens, k] choices; out: a Routing, which the operators and the layer use to move rows.
import { boundOf } from '../../base/shape.ts';
import { UserError } from '../../base/errors.ts';
import { checkOptions, refuseUnused, type KeysOf } from '../../base/options.ts';
import {
  aFlag,
  aList,
  anObject,
  aNumber,
  anything,
  aSize,
  aText,
  aWhole,
  either,
  needed,
  oneOf,
} from '../../base/kinds.ts';
import type { Tensor } from '../../graph/tensor.ts';
import { admit, type Admission } from '../../graph/ops/moe/admit.ts';
import { expertCapacity } from '../../graph/ops/moe/expertCapacity.ts';
import { permute, type Permutation } from '../../graph/ops/moe/permute.ts';
import { iota } from '../../graph/ops/create/iota.ts';
import { cast } from '../../graph/ops/elementwise/cast.ts';
import { neg } from '../../graph/ops/elementwise/neg.ts';
import { segmentRank } from '../../graph/ops/moe/segmentRank.ts';
import { slice } from '../../graph/ops/shape/slice.ts';
import { segmentCounts } from '../../graph/ops/moe/splitSegments.ts';
import { sub } from '../../graph/ops/elementwise/sub.ts';
import { traceOf } from '../../trace/trace.ts';
import { checkCapacity, factorsOf, roomFor, shareOf, type Capacity } from './capacity.ts';
import { tile, type Tiles } from './tiles.ts';

/**
 * Which choices an expert keeps if it gets more than its capacity. position: those of the first tokens in the batch;
 * choice: all first choices before all second choices, then by position (GShard, Lepikhin et al. 2020, Algorithm 1);
 * probs: those with the highest gate probability, ties by position. Kept rows always lie in token order.
 */
export const PRIORITIES = ['position', 'choice', 'probs'] as const;
export type Priority = (typeof PRIORITIES)[number];
/**
 * What happens to choices beyond the capacity. drop: the token gets no output of that expert. spill: they are computed
 * as well, after the others.
 */
export const OVERFLOWS = ['drop', 'spill'] as const;
export type Overflow = (typeof OVERFLOWS)[number];

export interface RoutingOptions {
  readonly experts: number;
  readonly capacity?: Capacity;
  readonly overflow?: Overflow;
  readonly priority?: Priority;
  /** Float [tokens, k]: the order for priority 'probs'. */
  readonly scores?: Tensor;
  /** Whether every expert has as many rows as its capacity; unused rows are zeros. */
  readonly padded?: boolean;
  /** Whether spilled rows are computed in rounds (tiles.ts); only a bank of experts can do that. */
  readonly tiled?: boolean;
  /** Rows that an expert usually gets; 0, the default: not known. */
  readonly expertRows?: number;
  /** The choices sorted by expert, if that is done already. */
  readonly sorted?: Permutation | null;
  /** Which slots hold an expert; default all. Choices of other slots are not allowed. */
  readonly active?: readonly boolean[] | undefined;
}
const KEYS: KeysOf<RoutingOptions> = {
  experts: needed(aSize),
  capacity: either(aNumber, aText, aList),
  overflow: oneOf(...OVERFLOWS),
  priority: oneOf(...PRIORITIES),
  scores: anObject,
  padded: aFlag,
  tiled: aFlag,
  expertRows: aWhole(0),
  sorted: anything,
  active: aList,
};

/** Why a setting for choices beyond a capacity has no effect; null where it has one. */
export const unusedBeyond = ({
  capacity = 'dropless',
  overflow,
}: {
  readonly capacity?: Capacity | undefined;
  readonly overflow?: Overflow | undefined;
}): { overflow: string | null; priority: string | null } => {
  const dropless =
    capacity === 'dropless' ? 'the layer is dropless, so no choice is beyond a capacity: give a capacity' : null;
  return {
    overflow: dropless,
    priority:
      dropless ?? (overflow === 'spill' ? 'choices beyond the capacity are computed, too (overflow: spill)' : null),
  };
};

export interface Routing {
  readonly experts: number;
  /** Choices a token. */
  readonly k: number;
  /** Offsets, order, inverse, expert of the rows that are computed. */
  readonly rows: Permutation;
  /** Whether rows may be empty and choices dropped. */
  readonly mayDrop: boolean;
  /** How many rows an expert usually has; 0: not known. */
  readonly expertRows: number;
  /** Most rows of each expert, for which the expert's tensors are planned. */
  readonly bounds: readonly number[];
  /** int32 [] for each expert: how many rows it has. The first call adds them to the graph. */
  counts(): readonly Tensor[];
  /** Planned rows of all experts together, and the usual number. */
  readonly bound: number;
  readonly usual: number;
  /** int32 [experts]: choices of each expert, before any is dropped. */
  readonly load: Tensor;
  /** int32 [experts]: choices beyond the capacity, which were dropped or spilled; null for dropless. */
  readonly overflowCounts: Tensor | null;
  /** Not null if spilled rows are computed in rounds: then rows within capacity come first, and spilled rows after. */
  readonly tiles: Tiles | null;
}

const countsOf = (offsets: Tensor, experts: number): Tensor =>
  sub(slice(offsets, 0, 1, experts + 1), slice(offsets, 0, 0, experts));

/**
 * indices int32 [tokens, k]: the experts that each token chooses, all of them different. Throws UserError for a setting
 * that has no effect.
 */
export function route(indices: Tensor, options: RoutingOptions): Routing {
  checkOptions('route', options, KEYS);
  refuseUnused('route', options, unusedBeyond(options));
  return routed(indices, options);
}

/** `route` for the settings of a layer, where a setting without effect is allowed, because others may change later. */
export function routed(indices: Tensor, options: RoutingOptions): Routing {
  const { experts, overflow = 'drop', priority = 'position', padded = false, tiled = false, expertRows = 0 } = options;
  const [tokens, k] = indices.shape.map(boundOf),
    choices = tokens * k;
  const capacity = checkCapacity(options.capacity ?? 'dropless', experts);
  const all = options.sorted ?? permute(indices, experts),
    load = countsOf(all.offsets, experts);
  const spill = overflow === 'spill' && capacity !== 'dropless',
    inTiles = spill && tiled;
  const { caps, bound } = roomFor({
    tokens,
    k,
    experts,
    capacity,
    padded,
    spill: spill && !tiled,
    active: options.active,
  });
  if (!caps) {
    const bounds = new Array<number>(experts).fill(tokens);
    return {
      experts,
      k,
      rows: all,
      mayDrop: false,
      expertRows,
      bounds,
      counts: once(() => segmentCounts(all.offsets, bounds)),
      bound,
      usual: choices,
      load,
      overflowCounts: null,
      tiles: null,
    };
  }
  const limits = limitsOf(indices, caps, { experts, capacity, active: options.active });
  if (inTiles) {
    const tiles = tile(all, limits, { choices, rows: bound, padded }),
      { inside, ...both } = tiles.admitted;
    return {
      experts,
      k,
      rows: { ...both, expert: inside.expert },
      mayDrop: true,
      expertRows,
      bounds: caps,
      counts: once(() => segmentCounts(inside.offsets, caps)),
      bound,
      usual: choices,
      load,
      overflowCounts: both.beyond,
      tiles,
    };
  }
  const rank =
    spill || priority === 'position'
      ? null
      : segmentRank(scoresOf(indices, options), all.order, all.expert, all.offsets);
  const rows: Admission = admit(all, limits, rank, { rows: bound, padded, spill });
  const bounds = spill ? new Array<number>(experts).fill(tokens) : caps;
  return {
    experts,
    k,
    rows,
    mayDrop: true,
    expertRows,
    bounds,
    counts: once(() => segmentCounts(rows.offsets, bounds)),
    bound,
    usual: choices,
    load,
    overflowCounts: capacity === 'dropless' ? null : rows.beyond,
    tiles: null,
  };
}

/** int32 [experts]: most rows of each expert in this run. caps: those of as many tokens as there may be. */
function limitsOf(
  indices: Tensor,
  caps: readonly number[],
  {
    experts,
    capacity,
    active,
  }: Required<Pick<RoutingOptions, 'experts' | 'capacity'>> & Pick<RoutingOptions, 'active'>,
): Tensor {
  const trace = traceOf(indices),
    shape = [experts];
  if (typeof indices.shape[0] === 'number') return trace.constant({ dtype: 'int32', shape }, Int32Array.from(caps));
  const factors = Float64Array.from(factorsOf(capacity, experts, active));
  return expertCapacity(trace.constant({ dtype: 'float64', shape }, factors), indices, {
    share: shareOf(experts, active),
  });
}

function once<T>(make: () => T): () => T {
  let made: T | undefined;
  return () => (made ??= make());
}

function scoresOf(indices: Tensor, { priority, scores }: RoutingOptions): Tensor {
  const [tokens, k] = indices.shape.map(boundOf);
  if (priority === 'choice') {
    if (typeof indices.shape[0] !== 'number') return neg(cast(iota(indices, 1), 'float32'));
    return traceOf(indices).constant(
      { dtype: 'float32', shape: [tokens, k] },
      Float32Array.from({ length: tokens * k }, (_, i) => -(i % k)),
    );
  }
  if (!scores)
    throw new UserError("priority 'probs' needs scores", 'give `scores`: the gate probability of each choice');
  return scores;
}
