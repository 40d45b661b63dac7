// The interface of a part of the campaign: a promise, how attacks on it are drawn or listed, and how an attack is run.
// A case is plain JSON, so that a command line and a file can contain it. Attacks run in a process of their own
// (worker.ts), which may crash or hang.
import type { Arbitrary } from 'fast-check';

/** What an attack gets in addition to its case. */
export interface AttackContext {
  /** An empty folder, which is removed after the attack. */
  readonly folder: string;
  /** A folder for files that attacks share: kernels, results of uninterrupted runs. */
  readonly shared: string;
  /** The name of a known fault that was inserted to test the campaign; null in a real campaign. */
  readonly knownFault: string | null;
  /** Adds to the figures of the summary. */
  count(figure: string, by?: number): void;
}

/** A broken promise. Any other error that an attack throws is also a finding: the attack did not expect it. */
export class BrokenPromise extends Error {
  override readonly name: string = 'BrokenPromise';
  readonly promise: string;
  constructor(promise: string, what: string) {
    super(what);
    this.promise = promise;
  }
}

/** Throws BrokenPromise if `holds` is false. */
export function assertPromise(promise: string, holds: boolean, what: () => string): asserts holds {
  if (!holds) throw new BrokenPromise(promise, what());
}

/** C: the type of a case, which is plain JSON. */
export interface Part<C = unknown> {
  readonly name: string;
  /** What must be true whatever the attack does, in one sentence. */
  readonly promise: string;
  /** Its share of the campaign's time, relative to the other parts. */
  readonly share: number;
  /** Time limit of one attack in seconds. An attack that takes longer is a finding, because it may hang. */
  readonly limit: number;
  /** Why this part cannot run on this machine; false: it can. */
  missing?(): string | false;
  /** Draws random cases. A part has either this or `list`. */
  readonly cases?: Arbitrary<C>;
  /** Lists all cases. They are run in random order; each is run once before any is repeated. */
  list?(context: AttackContext): Promise<readonly C[]>;
  /** Names of the known faults that can be inserted to test this part. */
  readonly knownFaults: readonly string[];
  attack(attack: C, context: AttackContext): Promise<void>;
}

/** The answer of a worker. */
export type Outcome = { readonly ok: true } | { readonly ok: false; readonly promise: string; readonly what: string };
