// What policies look at: the modules of a model, or of a draft of one, that have a knob; MoE layers with what they have shown.
import type { LayerStats, RunStats } from '../observe/run-stats.ts';
import type { MoE } from '../nn/moe/moe.ts';
import { nameParameters } from '../trace/module.ts';
import { knobRules } from '../trace/knobs.ts';

export function modulesOf(model: object, knob: string): Map<string, object> {
  return new Map([...nameParameters(model).paths].filter(([module]) => knob in (knobRules(module) ?? {})).map(([module, path]) => [path, module]));
}

const EVERY = 16; // steps between two looks

/** Whether it is time to look at loads again. */
export const timeToLook = (run: RunStats): boolean => run.step > 0 && run.step % EVERY === 0;

/** The MoE layers that have shown their load. */
export function layersOf(model: object, run: RunStats): (readonly [MoE, LayerStats])[] {
  const found = modulesOf(model, 'capacity');
  return run.layers.flatMap((layer) => { const moe = found.get(layer.path); return moe ? [[moe as MoE, layer] as const] : []; });
}

/** A factor for each expert; null for dropless. */
export function factorsOf({ capacity }: MoE, experts: number): readonly number[] | null {
  if (capacity === 'dropless') return null;
  return typeof capacity === 'number' ? new Array<number>(experts).fill(capacity) : capacity;
}
