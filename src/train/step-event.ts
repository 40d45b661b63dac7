// The event of a training step. In: the result of session.step, and its time; out: plain JSON, which is short because
// it is written for every step.
import { checkOptions, type KeysOf } from '../base/options.ts';
import { atLeast0, needed } from '../base/kinds.ts';
import type { StepResult } from '../session/step.ts';
import type { StepEvent } from './events.ts';

export interface Measured {
  /** Milliseconds of the step, the making of its batch included. */
  readonly ms: number;
  /** Tokens, or samples, in the step. */
  readonly count: number;
  readonly lr?: number | undefined;
  readonly rss?: number | undefined;
}
const KEYS: KeysOf<Measured> = { ms: needed(atLeast0), count: needed(atLeast0), lr: atLeast0, rss: atLeast0 };

/** The event of a step from its result and what the caller measured, for loggers. */
export function stepEvent({ step, loss, aux, stats, gradNorm }: StepResult, measured: Measured): StepEvent {
  checkOptions('stepEvent', measured, KEYS);
  const { ms, count, lr, rss } = measured;
  const load: Record<string, number[]> = {},
    layers = new Map<string, Record<string, number>>();
  const of = (layer: string): Record<string, number> => {
    const found = layers.get(layer) ?? {};
    layers.set(layer, found);
    return found;
  };
  for (const [name, value] of Object.entries(stats)) {
    const cut = name.lastIndexOf('/'),
      layer = name.slice(0, cut),
      what = name.slice(cut + 1),
      list = Array.from(value.data, Number);
    if (what === 'load') load[layer] = list;
    else if (what === 'agreement') {
      if (list[1] > 0) of(layer)[what] = short(list[0] / list[1]);
    }
    // Lists with one number for each expert are summed; details follow from the load and the capacities.
    else if (list.every(Number.isFinite)) of(layer)[snake(what)] = short(list.reduce((a, b) => a + b, 0));
  }
  return {
    event: 'step',
    step,
    loss,
    aux: Object.fromEntries(Object.entries(aux).map(([name, x]) => [name, short(x)])),
    tokens_per_s: round((count / ms) * 1000, 1),
    ms: round(ms, 3),
    grad_norm: gradNorm,
    ...(lr !== undefined && { lr: short(lr) }),
    ...(rss !== undefined && { rss }),
    ...(Object.keys(load).length > 0 && { load }),
    ...(layers.size > 0 && { layers: Object.fromEntries(layers) }),
  };
}

const snake = (name: string): string => name.replace(/[A-Z]/g, (c) => `_${c.toLowerCase()}`);
export const round = (x: number, digits: number): number => Number(x.toFixed(digits));
/** Rounds to six significant digits, for numbers that are only displayed. */
const short = (x: number): number => Number(x.toPrecision(6));
