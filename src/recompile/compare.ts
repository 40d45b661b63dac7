// Compares the results of a real step with those of the same step run by a new plan, which stored nothing (dry run).
// In: outputs of both by name, for each micro-batch, or why the dry run failed; out: a Comparison.
import { sameBytes } from '../base/same.ts';
import type { HostTensor } from '../base/tensor.ts';
import type { Comparison } from './engine-host.ts';

type Outputs = Readonly<Record<string, HostTensor>>;

export function compare(
  real: readonly Outputs[],
  dry: readonly Outputs[],
  ms: number,
  failed: string | null = null,
): Comparison {
  const value = (all: readonly Outputs[], name: string): number =>
    all.reduce((n, o) => n + Number(o[name]?.data[0] ?? NaN), 0) / all.length;
  if (failed !== null)
    return { equal: false, finite: false, loss: value(real, 'loss'), dryLoss: NaN, ms, differs: failed };
  const differs =
    real.length !== dry.length
      ? ['number of parts']
      : real.flatMap((outputs, i) => {
          // Three outputs are not compared: `flag`, which says that the run was dry; counts of spilled rows, which
          // depend on capacities though results do not; statistics that only one of the plans has.
          const names = Object.keys(outputs).filter(
            (n) => n !== 'flag' && !n.endsWith('/spilled') && (n in dry[i] || !n.startsWith('stat:')),
          );
          return names.filter((n) => !(n in dry[i] && sameBytes(outputs[n].data, dry[i][n].data)));
        });
  const dryLoss = value(dry, 'loss'),
    norm = value(dry, 'grad_norm');
  return {
    equal: differs.length === 0,
    finite: Number.isFinite(dryLoss) && (Number.isFinite(norm) || !('grad_norm' in (real.at(-1) ?? {}))),
    loss: value(real, 'loss'),
    dryLoss,
    ms,
    differs: differs.length > 0 ? `${differs[0]} differs` : null,
  };
}
