// How many rows a tensor has in a run, where that may be known only then.
import { boundOf, type Dim } from '../base/shape.ts';
import { cast } from '../graph/ops/elementwise/cast.ts';
import { div } from '../graph/ops/elementwise/div.ts';
import { mul } from '../graph/ops/elementwise/mul.ts';
import { mean, oneOver, sum } from '../graph/ops/reduce/sum.ts';
import { reshape } from '../graph/ops/shape/reshape.ts';
import { slice } from '../graph/ops/shape/slice.ts';
import { scalar, type Tensor } from '../graph/tensor.ts';
import { traceOf } from '../trace/trace.ts';

/** int32 []: how many rows there are in this run. */
export function rowsIn(x: Tensor, dim: Dim): Tensor {
  const trace = traceOf(x);
  if (typeof dim === 'number') return scalar(x, dim, 'int32');
  if (dim.kind === 'bounded') return trace.tensor(dim.count);
  return reshape(slice(trace.tensor(dim.offsets), 0, dim.segments, dim.segments + 1), []);
}

/** Rows of x times `each`: a number, or int32 [] if it is known only at run time. */
export function countOf(x: Tensor, each = 1): number | Tensor {
  const [rows] = x.shape;
  return typeof rows === 'number' ? rows * each : mul(rowsIn(x, rows), each);
}

/** a / b of two counts, in the dtype of x: computed in float64 and rounded once, at run time as on the host. */
export function quotient(x: Tensor, a: number | Tensor, b: number | Tensor): number | Tensor {
  if (typeof a === 'number' && typeof b === 'number') return a / b;
  const wide = (n: number | Tensor): Tensor => (typeof n === 'number' ? scalar(x, n, 'float64') : cast(n, 'float64'));
  return cast(div(wide(a), wide(b)), x.dtype);
}

/** Mean over the rows and other axes (all by default), like ops.mean; without rows it is 0. */
export function meanOfRows(x: Tensor, axes: readonly number[] = x.shape.map((_, i) => i)): Tensor {
  if (typeof x.shape[0] === 'number') return mean(x, axes);
  const each = axes.reduce((n, a) => n * (a === 0 ? 1 : boundOf(x.shape[a])), 1);
  return mul(sum(x, axes), oneOver(x, each, 1));
}
