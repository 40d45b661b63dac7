// The events of a run, which go to its log (events.jsonl), to `--json`, to the dashboard and to every Logger. All are
// plain JSON; when an event is written it also gets `time`. docs/dashboard.md describes them for readers of the log.
import type { RecompileEvent } from '../recompile/rule.ts';
import type { Settings } from '../trace/knobs.ts';
import type { RankTimes } from './ranks.ts';

export interface StartEvent {
  readonly event: 'start';
  readonly version: string;
  readonly config: object;
  readonly device: string;
  readonly threads: number;
  readonly parameters: number;
  readonly steps: number;
  /** Steps that earlier processes of the run have done. */
  readonly resumed_from: number;
  readonly out: string;
  /** The unit of throughput. */
  readonly unit: 'tokens' | 'samples';
  readonly train_samples: number;
  readonly validation_samples: number;
  /** Processes that train together; absent: one. */
  readonly ranks?: number;
}

export interface StepEvent {
  readonly event: 'step';
  /** 1 for the first. */
  readonly step: number;
  /** The main loss alone: cross-entropy in nats per byte for text. */
  readonly loss: number;
  readonly aux: Readonly<Record<string, number>>;
  readonly tokens_per_s: number;
  readonly ms: number;
  readonly grad_norm: number;
  readonly lr?: number;
  /** Bytes of the process that are resident now. */
  readonly rss?: number;
  /**
   * Choices of each expert before any is dropped, by layer: { 'blocks.0.moe': [190, 201, ...] }. Of the last
   * micro-batch.
   */
  readonly load?: Readonly<Record<string, readonly number[]>>;
  /**
   * Other statistics, by layer: `dropped` or `spilled` (choices beyond the capacities, summed over experts),
   * `gate_entropy` (nats, the mean over tokens), `second_gate_weight`, and any other statistic of one number, such as
   * agreement with cached assignments.
   */
  readonly layers?: Readonly<Record<string, Readonly<Record<string, number>>>>;
  /** Over ranks, by rank: ms of the step, ms of them in which it waited for other ranks, and bytes that it sent. */
  readonly ranks?: RankTimes;
}

export interface EvalEvent {
  readonly event: 'eval';
  readonly step: number;
  readonly val_loss: number | null; // null: not finite
  readonly metrics?: Readonly<Record<string, number>>;
  readonly ms: number;
}

/** The plan of steps. Written after the first step that used it, so also after each recompilation that was kept. */
export interface PlanEvent {
  readonly event: 'plan';
  /** Steps done when the event was written. */
  readonly step: number;
  /** The first step that uses the plan. */
  readonly from: number;
  /** Planned bytes; `states` are the parameters and what the optimiser keeps. */
  readonly bytes: { readonly arena: number; readonly io: number; readonly constants: number; readonly states: number };
  /**
   * Knobs of each MoE layer: topK, capacity, overflow, priority, dispatch; `frozen` where an expert is; `active`, a
   * bool for each slot, where one is free.
   */
  readonly layers: Readonly<Record<string, Settings>>;
  /** Absent on the reference device, which has no program. */
  readonly program?: {
    /** Texts to which the lists below refer by index. */
    readonly names: readonly string[];
    /** Tensors of the arena: offset, bytes, first and last step that touch it, index of its name. */
    readonly arena: readonly (readonly [offset: number, bytes: number, first: number, last: number, name: number])[];
    /**
     * Steps in order: index of its ops, index of its module's path, 1 where it waits for all before it, microseconds.
     * Times are of one run, kernel by kernel, in which nothing is stored: updates of parameters show as 0.
     */
    readonly steps: readonly (readonly [ops: number, scope: number, barrier: 0 | 1, us: number])[];
  };
}

export interface SaveEvent {
  readonly event: 'checkpoint';
  readonly step: number;
  readonly checkpoint: string;
  /** It is kept as that of the best validation so far. */
  readonly best?: true;
  readonly ms: number;
}

/** The run was stopped on request; it can be resumed from the checkpoint. */
export interface StopEvent {
  readonly event: 'stopped';
  readonly step: number;
  readonly checkpoint: string;
}

/** The run ended by an error. */
export interface FailEvent {
  readonly event: 'failed';
  readonly step: number;
  readonly error: string;
}

/** Over ranks, of each number the largest of any rank. */
export interface PeakBytes {
  readonly arena: number;
  readonly params: number;
  readonly optimiser: number;
  readonly rss: number;
}

export interface BestValidation {
  readonly step: number;
  readonly val_loss: number;
}

export interface DoneEvent {
  readonly event: 'done';
  readonly step: number;
  readonly val_loss: number | null;
  readonly metrics?: Readonly<Record<string, number>>;
  /** The validation with the lowest loss; absent: none had a loss. */
  readonly best?: BestValidation;
  /** The run ended before its last step, because validations did not improve (`patience`). */
  readonly early?: true;
  readonly checkpoint: string;
  readonly seconds: number;
  readonly peak_bytes: PeakBytes;
}

export type TrainEvent =
  RecompileEvent | StartEvent | StepEvent | EvalEvent | PlanEvent | SaveEvent | StopEvent | FailEvent | DoneEvent;

/** An event as it is written, with `time` in seconds since 1970. */
export type LogEvent = TrainEvent & { readonly time: number };
