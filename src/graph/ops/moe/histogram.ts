// Counts the choices of each expert, in ranges: then every range of choices knows where its rows lie (permute).
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, showType, type TensorType } from '../../../base/shape.ts';
import type { Expr } from '../../../kernel/expr.ts';
import type { Stmt } from '../../../kernel/kernel.ts';
import type { LoopCall, Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';
import { rangeAt } from './ranges.ts';
import { checkVector } from './routing.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    histogram: HistogramAttrs;
  }
}

export type HistogramAttrs = { readonly experts: number; readonly ranges: number };

export const histogramOp: Op<HistogramAttrs> = {
  // How many choices of each expert each range of choices has; 0 if every sample is known.
  name: 'histogram',
  infer([x, known], { experts, ranges }) {
    if (x.dtype !== 'int32' || x.shape.length !== 2)
      throw new ShapeError(`histogram: needs int32 [tokens, choices], got ${showType(x)}`);
    if (![experts, ranges].every((n) => Number.isInteger(n) && n >= 1))
      throw new ShapeError(`histogram: needs at least one expert and one range, got ${experts} and ${ranges}`);
    if (known) checkVector('histogram', 'known', known);
    return [{ dtype: 'int32', shape: [ranges, experts] }];
  },
  lower: {
    kind: 'loops',
    build(call) {
      const {
        e,
        k: w,
        inputs: [x, known],
        outputs: [counts],
        inTypes: [type, knownType],
        attrs: { experts, ranges },
      } = call;
      return {
        grid: { extent: ranges, work: null },
        body(g) {
          const own = w.array('int32', experts),
            { from, size } = rangeAt(e, e.scale(w.extent(type, 0), boundOf(type.shape[1])), g, ranges),
            count = w.histogram(own, size, (c) => clamped(call, w.load(x, e.add(from, c)), experts));
          return [
            own.fill(0),
            ...(knownType ? unlessKnown(call, known, knownType, [count]) : [count]),
            w.vector(experts, (z) => [w.store(counts, e.add([experts, g], z), own.at(z))]),
          ];
        },
      };
    },
  },
};

/** A choice; a number outside 0..experts-1 counts as the nearest expert. */
export const clamped = ({ e }: Pick<LoopCall, 'e'>, choice: Expr, experts: number): Expr =>
  e.min(e.max(choice, e.const(0, 'int32')), e.const(experts - 1, 'int32'));

/** Statements that run unless every sample is known. */
export function unlessKnown(
  { e, k: w }: Pick<LoopCall, 'e' | 'k'>,
  known: number,
  type: TensorType,
  body: Stmt[],
): Stmt[] {
  const all = w.scalar('int32');
  return [
    all.set(e.const(1, 'int32')),
    w.loop(boundOf(type.shape[0]), (b) => [all.set(e.min(all.get(), w.load(known, b)))]),
    w.when(e.eq(all.get(), e.const(0, 'int32')), body),
  ];
}

/** indices int32 [T, k], known int32 [samples] or none -> int32 [ranges, experts]. */
export const histogram = (indices: Tensor, known: Tensor | null, attrs: HistogramAttrs): Tensor =>
  emit1('histogram', known ? [indices, known] : [indices], attrs);
