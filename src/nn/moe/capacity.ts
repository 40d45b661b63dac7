// How many rows an expert may get. In: the setting `capacity` and the sizes of a layer; out: rows for each expert, and
// how many rows to plan for all together.
import { UserError } from '../../base/errors.ts';
import { shown } from '../../base/options.ts';

/** 'dropless': no limit. A number: a factor on the even share of rows; a list: one factor for each expert. */
export type Capacity = 'dropless' | number | readonly number[];

export function checkCapacity(capacity: Capacity, experts: number): Capacity {
  const factor = (f: unknown): boolean => typeof f === 'number' && Number.isFinite(f) && f >= 0;
  const fine =
    capacity === 'dropless' ||
    (Array.isArray(capacity) ? capacity.length === experts && capacity.every(factor) : factor(capacity));
  if (!fine) {
    throw new UserError(
      `capacity must be 'dropless', a factor of at least 0, or a list of ${experts} factors, got ` +
        `${Array.isArray(capacity) ? `[${capacity.map(shown).join()}]` : shown(capacity)}`,
      'a factor of 1 gives each expert its even share: tokens * topK / experts rows',
    );
  }
  return typeof capacity === 'object' ? Object.freeze([...capacity]) : capacity;
}

/** Among how many experts choices are divided evenly: free slots do not count. */
export const shareOf = (experts: number, active?: readonly boolean[]): number =>
  active?.filter((held) => held).length ?? experts;

/** For each expert the factor of its even share; 0 for a free slot. Without a capacity an expert may get all tokens. */
export function factorsOf(capacity: Capacity, experts: number, active?: readonly boolean[]): number[] {
  const factors = capacity === 'dropless' ? shareOf(experts, active) : capacity;
  return Array.from({ length: experts }, (_, e) =>
    active?.[e] === false ? 0 : typeof factors === 'number' ? factors : factors[e],
  );
}

/**
 * Most rows of each expert: ceil(factor * choices / experts); null for dropless. `choices`: tokens * k. active: which
 * slots hold an expert; only those count for the even share, and a free slot gets no rows. Where the number of tokens
 * is known only at run time, `expertCapacity` computes the same.
 */
export function capacityRows(
  capacity: Capacity,
  experts: number,
  choices: number,
  active?: readonly boolean[],
): number[] | null {
  if (capacity === 'dropless') return null;
  const share = shareOf(experts, active);
  return factorsOf(capacity, experts, active).map((f) => Math.min(choices, Math.ceil((f * choices) / share)));
}

/** Rounds rows up, by at most an eighth, so that small changes of capacity can use the same compiled plan. */
export function bucket(rows: number): number {
  if (rows <= 16) return rows <= 0 ? 0 : 16;
  const step = 2 ** Math.max(0, Math.floor(Math.log2(rows)) - 3);
  return Math.ceil(rows / step) * step;
}

export interface Room {
  /** Most rows of each expert; null: no limit. */
  readonly caps: readonly number[] | null;
  /** Rows planned for all experts together, at least 1, so that a capacity of 0 needs no other kernels. */
  readonly bound: number;
}

/** Rows to plan for. padded: every expert has as many as its capacity. spill: rows beyond it are computed, too. */
export function roomFor({
  tokens,
  k,
  experts,
  capacity,
  padded,
  spill,
  active,
}: {
  readonly tokens: number;
  readonly k: number;
  readonly experts: number;
  readonly capacity: Capacity;
  readonly padded: boolean;
  readonly spill: boolean;
  readonly active?: readonly boolean[] | undefined;
}): Room {
  const choices = tokens * k;
  // A token chooses an expert at most once, so an expert gets at most one row for each token.
  const caps =
    capacityRows(capacity, experts, choices, active)?.map((c) => Math.min(c, tokens)) ??
    (padded ? Array.from({ length: experts }, (_, e) => (active?.[e] === false ? 0 : tokens)) : null);
  if (!caps) return { caps, bound: choices };
  const total = Math.max(
    1,
    caps.reduce((a, b) => a + b, 0),
  );
  return {
    caps,
    bound: padded ? bucket(total) + (spill ? choices : 0) : spill ? choices : Math.min(choices, bucket(total)),
  };
}
