// What the recompilation engine needs from a session: knobs, and plans for the next step under changed knobs. The lab
// implements it, too, with a model that computes nothing.
import type { Change, Knobs } from '../trace/knobs.ts';
import type { Draft } from './draft.ts';

/** Plans for the shapes of the last batches, compiled or being compiled. */
export interface Prepared {
  /** Whether they existed already. */
  readonly cached: boolean;
  readonly ready: Promise<void>;
  /** Whether batches of this shape are among them. */
  has(shape: string): boolean;
  /** Allocates their memory; throws if there is too little. alone: the current plan will not run again. */
  load(alone: boolean): void;
  bytes(): number;
  /** Text that names the kernels of the plan for this shape, equal for equal kernels; null where not known. */
  kernels(shape: string): string | null;
  /** Drops plans that are not loaded. */
  drop(): void;
}

export interface EngineHost {
  readonly knobs: Knobs;
  /** Number of the step that comes next: 1 for the first. */
  next(): number;
  /** Shape of the batch of the next step, as text. */
  shape(): string;
  draft(): Draft<object>;
  /**
   * Begins to compile the programs of a step as they are with these changes. Throws where the model cannot be traced
   * with them.
   */
  prepare(changes: readonly Change[]): Prepared;
  /** The same if only sizes change, which takes a few milliseconds and starts no compiler; else null. */
  resize(changes: readonly Change[]): Prepared | null;
  /**
   * Moves parameter values as the changes require, between steps, before the changes are applied. Moves all or none.
   * Gives a function that moves them back.
   */
  carry(changes: readonly Change[]): Promise<() => void>;
  /** Planned bytes of the current plan, and its kernels. */
  bytes(): number;
  kernels(): string | null;
  /** Whether there is a plan for the next step. */
  ready(): boolean;
  /**
   * All bytes that are held with the plan under these changes, states included, for the largest of the last batches.
   * Planned but not compiled, so the number is the same on every machine.
   */
  needs(changes: readonly Change[]): number;
  /** Bytes that may be held. given: the user set the number; else it is the free memory now. */
  budget(): { readonly bytes: number; readonly given: boolean };
  /** Frees memory that the current plan does not need. */
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
