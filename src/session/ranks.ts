// A session over ranks: what `compile` checks, and how ranks agree about work that can fail on one of them alone. In:
// the options of a session, or work of this rank; out: the placement of its experts, or the same outcome on every rank.
import { UserError, asError, messageOf } from '../base/errors.ts';
import { PARTS } from '../base/parts.ts';
import type { Ranks } from '../device/ranks.ts';
import type { CheckpointContent } from '../io/checkpoint.ts';
import { fileOrder } from '../io/safetensors.ts';
import type { Agreement } from '../recompile/agreement.ts';
import { Placement, type Slots } from '../run/placement.ts';
import { RankRuns } from '../run/rank-runs.ts';
import { rankAgreement } from './rank-agreement.ts';

/** Of the options of `compile`, what ranks read. */
export interface GroupOptions {
  readonly placement?: Slots;
  readonly device?: string;
  readonly agreement?: object;
}

/** The ranks of one session. Sessions of one process have none. */
export class Group {
  readonly ranks: Ranks;
  readonly placement: Placement;
  /** For the executor. */
  readonly runs: RankRuns;
  /** For recompilations. */
  readonly agreement: Agreement;

  /** Throws UserError for what ranks cannot do. */
  constructor(ranks: Ranks, { placement, device = 'auto', agreement }: GroupOptions) {
    if (PARTS % ranks.size !== 0)
      throw refusal(
        `compile: ${ranks.size} ranks cannot train one model: sums are added in ${PARTS} parts`,
        'start 1, 2, 4 or 8 ranks: mpirun -n 4 ...',
      );
    if (device !== 'auto' && device !== 'native')
      throw refusal(
        `compile: the device ${device} runs in one process only, not on ${ranks.size} ranks`,
        "device: 'native' runs on many ranks",
      );
    if (agreement)
      throw refusal('compile: agreement has no effect over ranks, which agree by themselves', 'leave it out');
    this.ranks = ranks;
    this.placement = new Placement(ranks, placement);
    this.runs = new RankRuns(this.placement);
    this.agreement = rankAgreement(ranks);
  }

  agreed<T>(work: () => Promise<T>): Promise<T> {
    return agreed(this.ranks, work);
  }

  /** As `writeOverRanks`. */
  write<T>(content: CheckpointContent, write: (content: CheckpointContent) => Promise<T>): Promise<T | null> {
    return writeOverRanks(this.ranks, content, write);
  }
}

/** Every rank has the same options, so it is refused on all of them. */
const refusal = (what: string, hint: string): UserError => agreedError(new UserError(what, hint));

/** Errors that every rank has thrown. */
const known = new WeakSet<object>();
/** Whether an error is the same on every rank, so that each can end by itself. */
export const isAgreed = (error: unknown): boolean => typeof error === 'object' && error !== null && known.has(error);
/** Marks an error that every rank throws. */
export function agreedError<E extends object>(error: E): E {
  known.add(error);
  return error;
}

/**
 * Does work that can fail on one rank alone; it must exchange nothing. If it fails on any rank, this rejects on all of
 * them, with the rank's own error or one that names the first rank that failed. Every rank calls it. null: no ranks.
 */
export async function agreed<T>(ranks: Ranks | null, work: () => Promise<T>): Promise<T> {
  if (!ranks) return work();
  const [own] = await Promise.allSettled([work()]),
    text = own.status === 'rejected' ? messageOf(own.reason) || 'failed' : '',
    texts = ranks.gather(new TextEncoder().encode(text)),
    first = texts.findIndex(({ length }) => length > 0);
  if (own.status === 'rejected') throw agreedError(asError(own.reason));
  if (first >= 0) throw agreedError(new UserError(`rank ${first}: ${new TextDecoder().decode(texts[first])}`));
  return own.value;
}

/**
 * Writes a checkpoint on rank 0 by `write`; the other ranks give it their parts, tensor by tensor. Gives what `write`
 * gives on rank 0, and null on the others, once the checkpoint is written. Every rank calls it; fails as `agreed`.
 */
export function writeOverRanks<T>(
  ranks: Ranks,
  { tensors, meta }: CheckpointContent,
  write: (content: CheckpointContent) => Promise<T>,
): Promise<T | null> {
  return agreed(ranks, async () => {
    const left = new Set(tensors.map(({ name }) => name)),
      own = tensors.map((tensor) => ({
        ...tensor,
        data: () => {
          left.delete(tensor.name);
          return tensor.data();
        },
      }));
    const failures: Error[] = [];
    const tried = async <R>(work: () => R | Promise<R>): Promise<R | null> => {
      try {
        return await work();
      } catch (error) {
        failures.push(asError(error));
        return null;
      }
    };
    const made = ranks.rank === 0 ? await tried(() => write({ tensors: own, meta })) : null;
    // What rank 0 did not get to write is given all the same, because the other ranks give it.
    for (const { name, data } of fileOrder(own)) if (left.has(name)) await tried(data);
    if (failures.length > 0) throw failures[0];
    return made;
  });
}
