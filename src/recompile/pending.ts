// A recompilation under way, from its decision to its event.
import type { Change, ChangeClass } from '../trace/knobs.ts';
import type { Prepared } from './engine-host.ts';
import type { RecompileEvent } from './rule.ts';
import type { Trial } from './trial.ts';

/** An entry of the decision log, which lists changes of class R in order. Plain JSON. */
export interface Decision {
  readonly step: number;
  readonly effect: number;
  readonly rule: string;
  readonly changes: readonly Change[];
  /**
   * The same change, from the settings that do not depend on clocks, where these differ from the current ones. Later
   * decisions follow from these settings only.
   */
  readonly decided?: readonly Change[];
  /** Whether it takes an earlier change of the rule back. */
  readonly back?: true;
}

export class Pending {
  readonly decision: Decision;
  /** null: a rule failed before its change had one. */
  readonly class: ChangeClass | null;
  readonly reason: string;
  readonly tolerance: number;
  /** Planned bytes of the old plan. */
  bytes: number;
  prepared: Prepared | null = null;
  /** Whether the new plan is compiled. */
  ready = false;
  /** Whether memory for the new plan is allocated. */
  loaded = false;
  /** Whether memory was allocated only after the last step of the old plan, so that nothing could be compared. */
  loadedExclusively = false;
  /** Failed attempts to allocate memory, and the step before which no other attempt is made. */
  tries = 0;
  notBefore = 0;
  /** Whether results agreed with those of the old plan; null: not compared yet. */
  verified: boolean | null = null;
  /** Why the recompilation must be given up, which all processes do together at the next step boundary. */
  error: Error | null = null;
  /** At how many step boundaries the batch had another shape than the new plan. */
  mismatchedBatches = 0;
  compileMs = 0;
  verifyMs = 0;
  stallMs = 0;
  /** Since when (ms) a step waits for the recompilation; null: no step does. */
  waits: number | null = null;
  /** Whether a compiler runs now, and how much longer (ms) steps took so far while it ran. */
  compiling = false;
  slowMs = 0;
  trial: Trial | null = null;
  /** The first step of the new plan. */
  effect: number | null = null;

  constructor(decision: Decision, klass: ChangeClass | null, reason: string, tolerance: number, bytes: number) {
    this.decision = decision;
    this.class = klass;
    this.reason = reason;
    this.tolerance = tolerance;
    this.bytes = bytes;
  }

  /** Ends the wait of a step and adds its time to the stall. */
  countWait(): void {
    if (this.waits !== null) this.stallMs += performance.now() - this.waits;
    this.waits = null;
  }

  /** The first step of the new plan, which is fixed for class R from the start; null for class N. */
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
