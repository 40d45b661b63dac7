// A recompilation under way, from its decision to its event.
import type { Change, ChangeClass } from '../trace/knobs.ts';
import type { Prepared } from './engine-host.ts';
import type { RecompileEvent } from './rule.ts';
import type { Trial } from './trial.ts';

/** A line of the decision log: changes of results, in order. Plain JSON. */
export interface Decision {
  readonly step: number;
  readonly effect: number;
  readonly rule: string;
  readonly changes: readonly Change[];
  /**
   * The same from the settings that do not depend on clocks, where these are others: it alone says what later decisions
   * follow from.
   */
  readonly decided?: readonly Change[];
  /** An earlier one is taken back. */
  readonly back?: true;
}

export class Pending {
  readonly decision: Decision;
  readonly class: ChangeClass;
  readonly reason: string;
  readonly tolerance: number;
  /** Planned, of the old plan. */
  bytes: number;
  prepared: Prepared | null = null;
  /** Compiled. */
  ready = false;
  /** Its memory is taken. */
  loaded = false;
  /** It was taken only when the old plan had run for the last time: nothing is compared. */
  loadedExclusively = false;
  /** Attempts to take it, and the step before which none is made. */
  tries = 0;
  notBefore = 0;
  /** null: it has not come to it. */
  verified: boolean | null = null;
  /** It cannot go on: settled at the next boundary, with all processes. */
  error: Error | null = null;
  /** Boundaries at which a batch of another shape came. */
  mismatchedBatches = 0;
  compileMs = 0;
  verifyMs = 0;
  stallMs = 0;
  /** Since when a step waits for it; null: none does. */
  waits: number | null = null;
  /** Something is being compiled: by how much steps took longer beside it, so far. */
  compiling = false;
  slowMs = 0;
  trial: Trial | null = null;
  /** The first step of the new plan. */
  effect: number | null = null;

  constructor(decision: Decision, klass: ChangeClass, reason: string, tolerance: number, bytes: number) {
    this.decision = decision;
    this.class = klass;
    this.reason = reason;
    this.tolerance = tolerance;
    this.bytes = bytes;
  }

  /** The step goes on: what it waited is counted. */
  countWait(): void {
    if (this.waits !== null) this.stallMs += performance.now() - this.waits;
    this.waits = null;
  }

  /** First step of the new plan where that is known from the start: of a change of results. */
  get due(): number | null {
    return this.class === 'R' ? this.decision.effect : null;
  }

  event(kept: boolean, error?: string): RecompileEvent {
    this.countWait();
    const { ratio, medians } = this.trial?.done ? this.trial : {},
      { step, rule, changes } = this.decision;
    return {
      event: 'recompile',
      step,
      effect: this.effect,
      rule,
      class: this.class,
      reason: this.reason,
      changes,
      cached: this.prepared?.cached ?? false,
      compile_ms: round(this.compileMs),
      verify_ms: round(this.verifyMs),
      stall_ms: round(this.stallMs + Math.max(0, this.slowMs)),
      verified: this.verified,
      kept,
      before: { ms: medians ? round(medians.old) : null, bytes: this.bytes },
      after: { ms: medians ? round(medians.fresh) : null, bytes: this.prepared?.bytes() ?? this.bytes },
      ...(ratio && { ratio: { median: round(ratio.median), low: round(ratio.low), high: round(ratio.high) } }),
      ...(error !== undefined && { error }),
    };
  }
}

const round = (x: number): number => Number(x.toFixed(3));
export const asError = (error: unknown): Error => (error instanceof Error ? error : new Error(String(error)));
/** Its first line. */
export const messageOf = (error: unknown): string => asError(error).message.split('\n')[0];
