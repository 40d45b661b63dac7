// The knobs of an MoE layer: which of its settings a recompilation may change, and between which of them the results
// have the same bits.
import type { KnobRules, Settings } from '../../trace/knobs.ts';

/** Rows that are computed one by one, each sum in token order, wherever they lie. */
export const byRows = ({ dispatch }: Settings): boolean => dispatch === 'ragged' || dispatch === 'padded';
/** Every choice is computed, those of an expert in token order: dropless, or the last of them spilled. */
const complete = (s: Settings): boolean =>
  s['capacity'] === 'dropless' || (s['overflow'] === 'spill' && s['priority'] === 'position');
export const alike = (from: Settings, to: Settings, ...knobs: readonly string[]): boolean =>
  knobs.every((k) => JSON.stringify(from[k]) === JSON.stringify(to[k]));

/** Experts choose: capacity says how many tokens each takes, and nothing overflows. */
const expertsChoose = (layer: object): boolean =>
  (layer as { readonly router?: { readonly expertsChoose?: boolean } }).router?.expertsChoose === true;

const sameBits = (from: Settings, to: Settings, layer: object): boolean =>
  alike(from, to, 'topK', 'frozen', 'slots') &&
  byRows(from) &&
  byRows(to) &&
  (expertsChoose(layer)
    ? alike(from, to, 'capacity')
    : (complete(from) && complete(to)) || alike(from, to, 'capacity', 'overflow', 'priority'));

/**
 * What samples chose is remembered, or not. What is remembered, and from when on, decides what a run later does: such a
 * change is never made by a clock.
 */
const nothingRemembered = (from: Settings, to: Settings): boolean =>
  from['routing'] === 'live' && to['routing'] === 'live';

export const MOE_KNOBS: KnobRules = {
  topK: sameBits,
  capacity: sameBits,
  overflow: sameBits,
  priority: sameBits,
  dispatch: sameBits,
  frozen: sameBits,
  slots: sameBits,
  expertRows: () => true,
  recompute: () => true,
  chunks: () => true,
  routing: nothingRemembered,
  remember: nothingRemembered,
  audit: nothingRemembered,
  gateFrozen: () => false,
};
