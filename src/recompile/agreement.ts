// What processes that train one model together must agree on before a plan changes. With one process every answer is
// its own. All processes ask the same questions in the same order.
import type { StepReport } from '../observe/run-stats.ts';

/** What a process says of its new plan, and what follows for all. */
export interface Readiness {
  /** Whether the plan failed (compiler, memory, a result that differs); for all: in any process. */
  readonly failed: boolean;
  /** Whether the plan is compiled, or in memory; for all: in every process. */
  readonly ready: boolean;
  /** Whether the old plan's memory had to be freed first, so that nothing can be compared; for all: in any process. */
  readonly exclusive: boolean;
}

export interface Agreement {
  /**
   * One step's statistics over all processes: the longest time. decided: what is under way in this process, as text;
   * processes that decided differently cannot go on together.
   */
  reduceStats(own: StepReport, decided: string): Promise<StepReport>;
  /** Asked at each step boundary while the processes wait for a plan. */
  agree(own: Readiness): Promise<Readiness>;
  /** The least of all processes' numbers of bytes. */
  least(bytes: number): number;
}

/** The agreement of a single process. */
export const alone: Agreement = {
  reduceStats: (own) => Promise.resolve(own),
  agree: (own) => Promise.resolve(own),
  least: (bytes) => bytes,
};
