// What the engine works on, as it sees it: something with knobs whose next step can be prepared under changes.
import type { Change, Knobs } from '../trace/knobs.ts';
import type { Draft } from './draft.ts';

/** Plans that are compiled or being compiled: for the shapes of batches that came last. */
export interface Prepared {
  /** They were there already. */
  readonly cached: boolean;
  readonly ready: Promise<void>;
  /** Whether batches of this shape are among them. */
  has(shape: string): boolean;
  /** Takes their memory; throws if there is too little. alone: the plan that runs now will not run again. */
  load(alone: boolean): void;
  bytes(): number;
  /** Which kernels the plan for this shape runs: the same text for the same kernels; null where that is not known. */
  kernels(shape: string): string | null;
  /** Forgets those that are not loaded. */
  drop(): void;
}

export interface EngineHost {
  readonly knobs: Knobs;
  /** Number of the step that comes next: 1 for the first. */
  next(): number;
  /** Shape of its batch. */
  shape(): string;
  draft(): Draft<object>;
  /**
   * Begins to compile the programs of a step as they are with these changes. Throws where the model cannot be traced
   * with them.
   */
  prepare(changes: readonly Change[]): Prepared;
  /** The same where nothing but sizes changes, which takes a few milliseconds and starts no compiler; else null. */
  resize(changes: readonly Change[]): Prepared | null;
  /**
   * Moves the values that go with changes, between steps, before the changes are applied; gives what takes them back.
   * Moves all or none.
   */
  carry(changes: readonly Change[]): () => void;
  /** Planned bytes of the plan that runs, and its kernels. */
  bytes(): number;
  kernels(): string | null;
  /** A plan for the next step is there. */
  ready(): boolean;
  /**
   * Bytes that are held in all with the plan under these changes, states among them: for the largest of the batches
   * that came last. It is planned for that and not compiled: the same number on every machine.
   */
  needs(changes: readonly Change[]): number;
  /** Bytes that may be held. given: the caller said so; else it is what is free now. */
  budget(): { readonly bytes: number; readonly given: boolean };
  /** Gives back memory that the plan that runs does not need. */
  trim(): void;
}

/** How a dry run compared with the real step. */
export interface Comparison {
  readonly equal: boolean;
  readonly finite: boolean;
  readonly loss: number;
  readonly dryLoss: number;
  readonly ms: number;
  /** What differs, or why the dry run failed; null if nothing did. */
  readonly differs: string | null;
}
