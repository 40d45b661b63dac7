// The smaller of two; NaN if either is NaN. Where they are equal the gradient goes to the first.
import { emit1, scalar } from '../../tensor.ts';
import { binary } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    minimum: NoAttrs;
  }
}

/** The smaller of two, with broadcasting; NaN if either is NaN. */
export const minimum = binary({
  // min(a, b)
  name: 'minimum',
  weight: 2,
  grad: ({ inputs: [a, b] }, dout) => {
    const second = emit1('less', [b, a]),
      none = scalar(dout, 0);
    return [emit1('where', [second, none, dout]), emit1('where', [second, dout, none])];
  },
  // a where it is <= b or NaN, else b (which may be NaN).
  expr: (e, [a, b]) => e.select(e.le(a, b), a, e.select(e.op('ne', [a, a]), a, b)),
  value: ([a, b]) => Math.min(a, b),
});
