// Reads the averages of parameters that `optim.ema` keeps.
import { UserError } from '../base/errors.ts';
import type { HostTensor } from '../base/tensor.ts';
import { partsOf } from '../optim/ages.ts';
import { AVERAGE } from '../optim/ema.ts';
import { momentName } from '../optim/updates.ts';
import type { Session } from './session.ts';

/**
 * The averages of all parameters by name, with the shapes and dtypes of the parameters. A parameter that no step has
 * updated yet, or that is not trained, has its value; so has each part of a parameter (an expert) that was always
 * frozen. `initFrom(other, averages)` starts a session with them, for example to evaluate it. Rejects with a UserError
 * if the session's optimizer is not one of `optim.ema`.
 */
export async function averagesOf(session: Session): Promise<Map<string, HostTensor>> {
  if (session.options.optimizer?.moments?.includes(AVERAGE) !== true)
    throw new UserError(
      'averagesOf: the session keeps no averages',
      'compile(model, { optimizer: optim.ema(optim.adamW({ lr: 1e-3 }), { decay: 0.999 }) })',
    );
  const { steps } = session,
    { missed = {} } = session.updating(),
    views = new Map(session.states().map((view) => [view.name, view])),
    averages = new Map<string, HostTensor>();
  // All values are those of the moment of this call: reading has begun for all of them before the first wait.
  const reads = [...session.named.parameters.keys()].map((name) => ({
    name,
    value: views.get(name)?.readAsync(),
    average: views.get(momentName(AVERAGE, name))?.readAsync(),
  }));
  for (const { name, value, average } of reads) {
    const own = await value;
    if (own === undefined) throw new UserError(`averagesOf: the session has no parameter ${name}`);
    averages.set(name, average ? mixed(own, await average, missed[name] ?? 0, steps) : own);
  }
  return averages;
}

/** The average, with the parameter's own value in parts whose average no step has updated. */
function mixed(own: HostTensor, average: HostTensor, missed: Parameters<typeof partsOf>[0], steps: number): HostTensor {
  if (typeof missed === 'number') return missed >= steps ? own : average;
  const { axis } = missed,
    count = own.shape[axis],
    data = average.data.slice(),
    inner = own.shape.slice(axis + 1).reduce((a, b) => a * b, 1);
  partsOf(missed, axis, count).forEach((n, part) => {
    if (n < steps) return;
    for (let at = part * inner; at < data.length; at += count * inner) data.set(own.data.subarray(at, at + inner), at);
  });
  return { ...average, data };
}
