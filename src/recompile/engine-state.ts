// What a checkpoint keeps of the recompilation engine, so that a resumed run decides as the run would have decided.
import type { StatsState } from '../observe/run-stats.ts';
import type { Settings } from '../trace/knobs.ts';
import type { Decision } from './pending.ts';
import type { RulesState } from './rules.ts';

/** Plain JSON. */
export interface EngineState extends RulesState {
  readonly knobs: Readonly<Record<string, Settings>>;
  /**
   * Values that knobs would have without any change of class N, for those knobs that such a change has set. Checkpoints
   * of earlier versions do not have it.
   */
  readonly decided?: Readonly<Record<string, Settings>>;
  readonly stats: StatsState;
  readonly log: readonly Decision[];
  /** A change of class R that is decided and not yet in force. */
  readonly pending:
    | (Decision & { readonly reason: string; readonly tolerance: number | null; readonly verified: boolean | null })
    | null;
}
