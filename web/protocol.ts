// What the page and its worker say to each other.
import type { TrainEvent } from '../src/train/events.ts';
import type { Overflow } from './model.ts';
import type { Spot } from './plane.ts';

/** Points along each side of a picture. */
export const SIDE = 64;

export type Speed = 'calm' | 'full';

/** To the worker: what the reader has chosen. */
export type Wish =
  | { readonly start: { readonly overflow: Overflow; readonly seed: number } }
  | { readonly skew: number; readonly spot: Spot }
  | { readonly running: boolean; readonly speed: Speed };

/** The plane as the model sees it, row by row. */
export interface Picture {
  /** Probability of the second colour, 0..255. */
  readonly colours: Uint8Array;
  /** The expert of each point's first choice. */
  readonly experts: Uint8Array;
  /** Share of points whose colour is right. */
  readonly right: number;
}

/** From the worker. `run` counts starts: what a run before told is of no use. */
export type News =
  | { readonly run: number; readonly events: readonly TrainEvent[] }
  | { readonly run: number; readonly picture: Picture }
  | { readonly run: number; readonly failed: string };
