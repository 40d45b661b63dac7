// The policy chooseDispatch: among the strategies that give the same bits, the one that computes fewer rows: `padded` computes every
// expert's whole capacity, `ragged` the rows that came. Whether that pays is measured, as for every change that keeps all bits.
import type { MoE } from '../nn/moe/moe.ts';
import { modulesOf } from './modules.ts';
import type { Rule } from './rule.ts';

const EVERY = 16; // steps between two looks

export interface ChooseDispatchOptions {
  /** Rows that padding must add to the rows that came, as a share, for `ragged` to be tried; default 0.02. */
  readonly padding?: number;
  readonly cooldown?: number;
}

export function chooseDispatch({ padding = 0.02, cooldown = 200 }: ChooseDispatchOptions = {}): Rule<object> {
  return {
    name: 'chooseDispatch', cooldown,
    trigger: (run) => run.step > 0 && run.step % EVERY === 0,
    alter(model, run) {
      const found = modulesOf(model, 'dispatch');
      for (const layer of run.layers) {
        const moe = found.get(layer.path) as MoE | undefined;
        if (moe?.dispatch !== 'padded') continue;
        const came = layer.load.reduce((a, b) => a + b, 0) - layer.dropped, share = (came + layer.dropped) / layer.experts;
        const factors = typeof moe.capacity === 'number' ? layer.load.map(() => moe.capacity as number) : moe.capacity;
        const computed = factors === 'dropless' ? Infinity : factors.reduce((n, f) => n + Math.ceil(f * share), 0);
        if (computed > (1 + padding) * came) moe.dispatch = 'ragged';
      }
    },
    reason: () => 'padding is computed',
  };
}
