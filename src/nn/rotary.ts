// Tables of rotary positions (Su et al. 2021, equation 34): the angle of pair i at position t is t base^(-2i / width).
import { hostTensor } from '../base/tensor.ts';
import type { Tensor } from '../graph/tensor.ts';
import { add } from '../graph/ops/elementwise/add.ts';
import { gather } from '../graph/ops/shape/gather.ts';
import { traceOf } from '../trace/trace.ts';

export interface RotaryOptions {
  /** Width of a head, even. */
  readonly width: number;
  /** Number of positions of the sequence. */
  readonly time: number;
  readonly base?: number;
  /** For a cached step: the position of its first token, int32 [], and the most positions there can be. */
  readonly cached?: { readonly position: Tensor; readonly context: number };
}

/** Cosines and sines of `time` positions, [time, width / 2] each, in the dtype of x, for `rope`. */
export function rotation(x: Tensor, { width, time, base = 10_000, cached }: RotaryOptions): [cos: Tensor, sin: Tensor] {
  const half = width / 2,
    rows = cached?.context ?? time,
    trace = traceOf(x),
    { dtype } = x;
  const table = (f: (angle: number) => number): Tensor =>
    trace.constant(
      { dtype, shape: [rows, half] },
      hostTensor(
        dtype,
        [rows, half],
        Array.from({ length: rows * half }, (_, i) => f(Math.floor(i / half) * base ** (-(i % half) / half))),
      ).data,
    );
  const [cos, sin] = [table(Math.cos), table(Math.sin)];
  if (!cached) return [cos, sin];
  const steps = trace.constant(
    { dtype: 'int32', shape: [time] },
    Int32Array.from({ length: time }, (_, i) => i),
  );
  const positions = add(steps, cached.position);
  return [gather(cos, positions), gather(sin, positions)];
}
