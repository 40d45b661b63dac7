// What a part of the campaign is: a promise, how an attack on it is drawn, and how it is carried out. A case is plain
// JSON, so that a command line and a file can hold it. Attacks run in a process of their own (worker.ts), which may
// crash or hang.
import type { Arbitrary } from 'fast-check';

/** What an attack gets beside its case. */
export interface World {
  /** An empty folder, which is removed afterwards. */
  readonly folder: string;
  /** A folder for what the attacks of one worker share: kernels, uninterrupted runs. */
  readonly shared: string;
  /** A fault that was planted to see whether the campaign finds it; null in earnest. */
  readonly planted: string | null;
  /** Adds to the figures of the summary. */
  count(figure: string, by?: number): void;
}

/**
 * A promise that was broken. Anything else that an attack throws is a finding, too: the attack itself did not expect
 * it.
 */
export class Broken extends Error {
  override readonly name: string = 'Broken';
  readonly promise: string;
  constructor(promise: string, what: string) {
    super(what);
    this.promise = promise;
  }
}

/** Throws Broken where `holds` is false. */
export function promised(promise: string, holds: boolean, what: () => string): asserts holds {
  if (!holds) throw new Broken(promise, what());
}

/** C: a case, which is plain JSON. */
export interface Part<C = unknown> {
  readonly name: string;
  /** What holds whatever the attack does: one sentence. */
  readonly promise: string;
  /** Its share of the campaign's time, relative to the other parts. */
  readonly share: number;
  /** Seconds that one attack may take. One that takes longer is a finding: it hangs. */
  readonly limit: number;
  /** Cases are drawn at random ... */
  readonly cases?: Arbitrary<C>;
  /** ... or listed, and gone through in random order, each once before any comes again. */
  list?(world: World): Promise<readonly C[]>;
  /** Names of the faults that can be planted in it. */
  readonly plants: readonly string[];
  attack(attack: C, world: World): Promise<void>;
}

/** What a worker answers. */
export type Outcome = { readonly ok: true } | { readonly ok: false; readonly promise: string; readonly what: string };
