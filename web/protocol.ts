// The messages between the page and its worker.
import type { TrainEvent } from '../src/train/events.ts';
import type { Overflow } from './model.ts';
import type { Spot } from './plane.ts';

/** Points along each side of a picture. */
export const SIDE = 64;

export type Speed = 'calm' | 'full';

/** Messages to the worker: the reader's choices. */
export type PageMessage =
  | { readonly start: { readonly overflow: Overflow; readonly seed: number } }
  | { readonly skew: number; readonly spot: Spot }
  | { readonly running: boolean; readonly speed: Speed };

/** The model's predictions for the plane, row by row. */
export interface Picture {
  /** Probability of the second colour, 0..255. */
  readonly colours: Uint8Array;
  /** The expert of each point's first choice. */
  readonly experts: Uint8Array;
  /** Share of points with the correct colour. */
  readonly right: number;
}

/** Messages from the worker. `run` counts starts: messages of an earlier run are ignored. */
export type WorkerMessage =
  | { readonly run: number; readonly events: readonly TrainEvent[] }
  | { readonly run: number; readonly picture: Picture }
  | { readonly run: number; readonly failed: string };
