// Processes (ranks) that run one program together, as the rest of the library sees them. Which library carries their
// messages is a device's business (native/mpi.ts).
import { UserError } from '../base/errors.ts';

/** Ranks cannot work together: they disagree, one has gone, or they were started wrongly. */
export class RanksError extends UserError {
  override readonly name: string = 'RanksError';
  /** Other ranks throw it too, and one line is enough: only rank 0 prints it, or the first rank if none is open yet. */
  readonly shared: boolean;
  constructor(message: string, hint?: string, shared = false) {
    super(message, hint);
    this.shared = shared;
  }
}

/** What a rank's messages have cost since it started. */
export interface RankCounters {
  /** Payload, in bytes. */
  readonly sent: number;
  /** Time in which this rank waited for messages, in ms. */
  readonly waitedMs: number;
  /** Exchanges of messages in which this rank took part. */
  readonly exchanges: number;
}

/**
 * One of `size` processes that run the same program. All ranks call the same methods in the same order; each of
 * `same`, `gather`, `broadcast` and `close` returns when all ranks have called it, and ends the run if a rank is gone.
 */
export interface Ranks {
  readonly rank: number;
  readonly size: number;
  /** This rank among those of its host. */
  readonly onHost: { readonly rank: number; readonly size: number };
  /** The library and the ranks: `Open MPI 4.1.4, 4 ranks on 1 host`. */
  readonly description: string;
  readonly counters: RankCounters;
  /** Throws RanksError on every rank, with what differs, unless all ranks give the same text. */
  same(what: string, text: string): void;
  /** The bytes of all ranks, in their order. Each may give any number of bytes; each begins at a multiple of 8. */
  gather(own: Uint8Array): Uint8Array[];
  /** The bytes of rank `from`, on every rank. What the other ranks give is not read. */
  broadcast(from: number, data: Uint8Array): Uint8Array;
  /**
   * Says what runs from now on. Messages of failures name the step; before the next collective step the ranks check
   * that all of them are at the same step of the same plan. `plan`: its hash.
   */
  at(step: number, plan: string): void;
  /** Prints one line (rank, step, reason) on stderr and ends all ranks with exit status 1. */
  abort(error: unknown): never;
  /** Ends the exchange of messages. A rank that exits without it ends the run as a failure. */
  close(): void;
}

/** The numbers of all ranks, by rank. Every rank gives as many, and every rank calls it. */
export const gatherNumbers = (ranks: Pick<Ranks, 'gather'>, own: readonly number[]): Float64Array[] =>
  ranks.gather(new Uint8Array(Float64Array.from(own).buffer)).map((bytes) => new Float64Array(bytes.slice().buffer));
