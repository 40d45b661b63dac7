// What processes that train one model together must agree on before a plan changes. In one process every answer is
// one's own.
import type { Shown } from '../observe/run-stats.ts';

export interface Agreement {
  /** One step's statistics over all processes: loads summed, times the longest. */
  reduceStats(own: Shown): Promise<Shown>;
  /**
   * Whether all have the new plan ready before step `step`: then all swap there. Asked at each boundary by all while a
   * plan is awaited.
   */
  agreeSwapStep(step: number, ready: boolean): Promise<boolean>;
  /**
   * Whether what is awaited failed anywhere (a compiler, too little memory, a result that differs): then all give it
   * up.
   */
  anyFailed(own: boolean): Promise<boolean>;
  /** Whether a count went over its bound anywhere. */
  anyOverflow(own: boolean): Promise<boolean>;
}

/** Of one process: it agrees with itself. */
export const alone: Agreement = {
  reduceStats: (own) => Promise.resolve(own),
  agreeSwapStep: (_, ready) => Promise.resolve(ready),
  anyFailed: (own) => Promise.resolve(own),
  anyOverflow: (own) => Promise.resolve(own),
};
