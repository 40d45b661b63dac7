// Creates MoE layers from random or combined settings. The constructor refuses settings that have no effect in
// combination; these are left out or set as knobs.
import { MoE, type MoEOptions } from '../../src/nn/moe/moe.ts';

export function anyMoE({ overflow, priority, hidden, bias, activation, ...options }: MoEOptions): MoE {
  const bank = typeof options.experts === 'number' && {
    ...(hidden !== undefined && { hidden }),
    ...(bias !== undefined && { bias }),
    ...(activation && { activation }),
  };
  const moe = new MoE({ ...options, ...bank });
  if (overflow !== undefined) moe.overflow = overflow;
  if (priority !== undefined) moe.priority = priority;
  return moe;
}
