// From choices of experts to rows: who is sent where, in which order, and who is left out. In: int32 [tokens, k]
// choices; out: a Routing, which the operators and the layer use to move rows.
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
import { permute, type Permutation } from '../../graph/ops/moe/permute.ts';
import { segmentRank } from '../../graph/ops/moe/segmentRank.ts';
import { slice } from '../../graph/ops/shape/slice.ts';
import { segmentCounts } from '../../graph/ops/moe/splitSegments.ts';
import { sub } from '../../graph/ops/elementwise/sub.ts';
import { traceOf } from '../../trace/trace.ts';
import { checkCapacity, roomFor, type Capacity } from './capacity.ts';
import { tile, type Tiles } from './tiles.ts';

/**
 * Who is kept where an expert gets more than its capacity. position: the first tokens, whichever choice of theirs it is
 * (a token's own choices are of different experts); choice: all first choices before all second ones, then by position
 * (GShard, Lepikhin et al. 2020, Algorithm 1); probs: those with the highest gate probability, ties by position. Kept
 * rows lie in token order in any case.
 */
export const PRIORITIES = ['position', 'choice', 'probs'] as const;
export type Priority = (typeof PRIORITIES)[number];
/**
 * What becomes of the others. drop: the token gets nothing of that expert. spill: they are computed all the same, after
 * the others.
 */
export const OVERFLOWS = ['drop', 'spill'] as const;
export type Overflow = (typeof OVERFLOWS)[number];

export interface RoutingOptions {
  readonly experts: number;
  readonly capacity?: Capacity;
  readonly overflow?: Overflow;
  readonly priority?: Priority;
  /** Float [tokens, k]: what 'probs' goes by. */
  readonly scores?: Tensor;
  /** Every expert has as many rows as its capacity, of zeros where nobody came. */
  readonly padded?: boolean;
  /** What spills is computed in rounds (tiles.ts): for who can do that. */
  readonly tiled?: boolean;
  /** Rows that an expert usually gets; 0, the default: not known. */
  readonly expertRows?: number;
  /** The choices sorted by expert, where that is done already. */
  readonly sorted?: Permutation | null;
  /** Which slots hold an expert; default all. Nobody may choose another. */
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
    capacity === 'dropless' ? 'the layer is dropless, so that nothing is beyond a capacity: give one' : null;
  return {
    overflow: dropless,
    priority:
      dropless ??
      (overflow === 'spill' ? 'what is beyond the capacity is computed all the same (overflow: spill)' : null),
  };
};

/**
 * From so many rows an expert on, rows are written out once for all products that read them. Every block of columns of
 * a product gathers its rows anew, which a few rows cost less than writing and reading them (docs/measurements.md).
 */
export const STORED_FROM = 256;

export interface Routing {
  readonly experts: number;
  /** Choices a token. */
  readonly k: number;
  /** Offsets, order, inverse, expert of the rows that are computed. */
  readonly rows: Permutation;
  /** Rows may be empty, choices dropped. */
  readonly mayDrop: boolean;
  /** Rows are written out once, and not gathered by each product. */
  readonly materialised: boolean;
  /** Most rows of each expert: what a tensor of its own is planned for. */
  readonly bounds: readonly number[];
  /** int32 [] for each expert: how many rows it has. Made when first asked for. */
  counts(): readonly Tensor[];
  /** Planned rows in all, and how many are usual. */
  readonly bound: number;
  readonly usual: number;
  /** int32 [experts]: choices of each expert, before any is dropped. */
  readonly load: Tensor;
  /** int32 [experts]: choices beyond the capacity, which were dropped or spilled; null for dropless. */
  readonly overflowCounts: Tensor | null;
  /**
   * Spilled rows are in rounds; rows are not in segments of the experts, but those within capacity and then the others.
   */
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

/** The same for settings of a layer, of which any may be changed later. */
export function routed(indices: Tensor, options: RoutingOptions): Routing {
  const { experts, overflow = 'drop', priority = 'position', padded = false, tiled = false, expertRows = 0 } = options,
    materialised = expertRows >= STORED_FROM;
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
      materialised,
      bounds,
      counts: once(() => segmentCounts(all.offsets, bounds)),
      bound,
      usual: choices,
      load,
      overflowCounts: null,
      tiles: null,
    };
  }
  const limits = traceOf(indices).constant({ dtype: 'int32', shape: [experts] }, Int32Array.from(caps));
  if (inTiles) {
    const tiles = tile(all, limits, { choices, rows: bound, padded }),
      { inside, ...both } = tiles.admitted;
    return {
      experts,
      k,
      rows: { ...both, expert: inside.expert },
      mayDrop: true,
      materialised,
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
    materialised,
    bounds,
    counts: once(() => segmentCounts(rows.offsets, bounds)),
    bound,
    usual: choices,
    load,
    overflowCounts: capacity === 'dropless' ? null : rows.beyond,
    tiles: null,
  };
}

function once<T>(make: () => T): () => T {
  let made: T | undefined;
  return () => (made ??= make());
}

function scoresOf(indices: Tensor, { priority, scores }: RoutingOptions): Tensor {
  const [tokens, k] = indices.shape.map(boundOf);
  if (priority === 'choice') {
    return traceOf(indices).constant(
      { dtype: 'float32', shape: [tokens, k] },
      Float32Array.from({ length: tokens * k }, (_, i) => -(i % k)),
    );
  }
  if (!scores)
    throw new UserError(
      "priority 'probs' needs the scores that it goes by",
      'give `scores`: the gate probability of each choice',
    );
  return scores;
}
