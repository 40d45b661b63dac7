// What processes that train one model together must agree on before a plan changes. With one process every answer is
// its own.
import type { StepReport } from '../observe/run-stats.ts';

export interface Agreement {
  /** One step's statistics over all processes: loads summed, times the longest. */
  reduceStats(own: StepReport): Promise<StepReport>;
  /**
   * Whether all processes have the new plan ready before step `step`; if so, all use it from that step on. All ask at
   * each step boundary while they wait for a plan.
   */
  agreeSwapStep(step: number, ready: boolean): Promise<boolean>;
  /** Whether the new plan failed in any process (compiler, memory, a result that differs); if so, all give it up. */
  anyFailed(own: boolean): Promise<boolean>;
  /** Whether a count exceeded its bound in any process. */
  anyOverflow(own: boolean): Promise<boolean>;
}

/** The agreement of a single process. */
export const alone: Agreement = {
  reduceStats: (own) => Promise.resolve(own),
  agreeSwapStep: (_, ready) => Promise.resolve(ready),
  anyFailed: (own) => Promise.resolve(own),
  anyOverflow: (own) => Promise.resolve(own),
};
