// Tables of rotary positions (Su et al. 2021, equation 34): the angle of pair i at position t is t base^(-2i / width).
import { isDynamic } from '../base/shape.ts';
import { hostTensor } from '../base/tensor.ts';
import type { Tensor } from '../graph/tensor.ts';
import { rowPosition } from '../graph/ops/attention/rowPosition.ts';
import { add } from '../graph/ops/elementwise/add.ts';
import { gather } from '../graph/ops/shape/gather.ts';
import { traceOf } from '../trace/trace.ts';

export interface RotaryOptions {
  /** Width of a head, even. */
  readonly width: number;
  /** Number of positions of the sequence; the most there can be, where x is rows. */
  readonly time: number;
  readonly base?: number;
  /** For a cached step: the position of its first token, int32 [], and the most positions there can be. */
  readonly cached?: { readonly position: Tensor; readonly context: number };
}

/**
 * Cosines and sines of `time` positions, [time, width / 2] each, in the dtype of x, for `rope`. Where x is rows
 * [rows, ..], segmented by sample: those of the positions of all rows in their samples, [rows, width / 2]; NaN from
 * position `time` on.
 */
export function rotation(x: Tensor, { width, time, base = 10_000, cached }: RotaryOptions): [cos: Tensor, sin: Tensor] {
  const half = width / 2,
    rows = cached?.context ?? time,
    trace = traceOf(x),
    { dtype } = x;
  const frequencies = Array.from({ length: half }, (_, i) => base ** (-i / half));
  const table = (f: (angle: number) => number): Tensor =>
    trace.constant(
      { dtype, shape: [rows, half] },
      hostTensor(
        dtype,
        [rows, half],
        Array.from({ length: rows * half }, (_, i) => f(Math.floor(i / half) * frequencies[i % half])),
      ).data,
    );
  const [cos, sin] = [table(Math.cos), table(Math.sin)];
  const isRows = isDynamic(x.shape);
  if (!cached && !isRows) return [cos, sin];
  const steps = isRows
    ? rowPosition(x)
    : trace.constant(
        { dtype: 'int32', shape: [time] },
        Int32Array.from({ length: time }, (_, i) => i),
      );
  const positions = cached ? add(steps, cached.position) : steps;
  return [gather(cos, positions), gather(sin, positions)];
}
