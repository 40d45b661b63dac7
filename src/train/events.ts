// What a run tells: to the terminal, to a pipe, to a run folder's log. All plain JSON.
import type { RecompileEvent } from '../recompile/rule.ts';

export interface StartEvent {
  readonly event: 'start';
  readonly version: string;
  readonly config: object;
  readonly device: string;
  readonly threads: number;
  readonly parameters: number;
  readonly steps: number;
  /** Steps that an earlier process did. */
  readonly resumed_from: number;
  readonly out: string;
  /** What throughput counts. */
  readonly unit: 'tokens' | 'samples';
  readonly train_samples: number;
  readonly validation_samples: number;
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
  /** Rows that each expert got, by layer: { 'blocks.0.moe': [190, 201, ...] }. */
  readonly load?: Readonly<Record<string, readonly number[]>>;
}

export interface EvalEvent {
  readonly event: 'eval';
  readonly step: number;
  readonly val_loss: number | null; // null: not finite
  readonly metrics?: Readonly<Record<string, number>>;
  readonly ms: number;
}

export interface SaveEvent { readonly event: 'checkpoint'; readonly step: number; readonly checkpoint: string; readonly ms: number }

/** A stop that was asked for; the run can go on from the checkpoint. */
export interface StopEvent { readonly event: 'stopped'; readonly step: number; readonly checkpoint: string }

export interface PeakBytes { readonly arena: number; readonly params: number; readonly optimiser: number; readonly rss: number }

export interface DoneEvent {
  readonly event: 'done';
  readonly step: number;
  readonly val_loss: number | null;
  readonly metrics?: Readonly<Record<string, number>>;
  readonly checkpoint: string;
  readonly seconds: number;
  readonly peak_bytes: PeakBytes;
}

export type TrainEvent = RecompileEvent | StartEvent | StepEvent | EvalEvent | SaveEvent | StopEvent | DoneEvent;
