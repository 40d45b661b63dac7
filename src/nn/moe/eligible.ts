// Which slots a token may choose if some slots are free or hold copies. In: scores of all slots; out: a bool for each.
//
// Free slots cannot be chosen. Of a family (an expert and its copies) only the member with the highest score can. A new
// copy has the same score as its original and can take its place, so the chosen experts and the sum of their weights
// stay the same. With equal scores, tokens at even positions go to the first member of the family, and others to the
// last: so copies get different tokens and become different experts.
import { hostTensor } from '../../base/tensor.ts';
import { boundOf } from '../../base/shape.ts';
import { scalar, type Tensor } from '../../graph/tensor.ts';
import { cast } from '../../graph/ops/elementwise/cast.ts';
import { div } from '../../graph/ops/elementwise/div.ts';
import { equal } from '../../graph/ops/elementwise/equal.ts';
import { expand } from '../../graph/ops/shape/expand.ts';
import { floor } from '../../graph/ops/elementwise/floor.ts';
import { iota } from '../../graph/ops/create/iota.ts';
import { less } from '../../graph/ops/elementwise/less.ts';
import { logicalAnd } from '../../graph/ops/elementwise/logicalAnd.ts';
import { logicalNot } from '../../graph/ops/elementwise/logicalNot.ts';
import { logicalOr } from '../../graph/ops/elementwise/logicalOr.ts';
import { mul } from '../../graph/ops/elementwise/mul.ts';
import { stopGradient } from '../../graph/ops/elementwise/stopGradient.ts';
import { sum } from '../../graph/ops/reduce/sum.ts';
import { takeAlong } from '../../graph/ops/shape/takeAlong.ts';
import { where } from '../../graph/ops/elementwise/where.ts';
import { traceOf } from '../../trace/trace.ts';
import { activeOf, type Families, type OpenSlots } from './slots.ts';

/** For each slot the slot that comes `turn` places later in its family; the slot itself if there is none. */
function rivals(families: Families, turn: number): number[] {
  return families.map((family, e) => {
    const own = families.flatMap((f, i) => (f === family ? [i] : []));
    return family === null || turn >= own.length ? e : own[(own.indexOf(e) + turn) % own.length];
  });
}

const set = (flags: Tensor): Tensor => less(scalar(flags, 0.5), flags);

/**
 * scores float [tokens, slots] -> bool [tokens, slots], or [slots] if there are no copies. Which slots hold an expert
 * is data, so a change of it compiles no kernel, as long as the largest family keeps its size.
 */
export function eligible(scores: Tensor, slots: OpenSlots): Tensor {
  const { families } = slots,
    trace = traceOf(scores),
    count = boundOf(scores.shape[1]),
    fixed = stopGradient(scores);
  const flags = (list: readonly boolean[]): Tensor =>
    set(trace.constant({ dtype: 'float32', shape: [count] }, Float32Array.from(list, Number)));
  const largest = Math.max(...families.map((family) => families.filter((f) => f !== null && f === family).length));
  let open = activeSlots(scores, slots); // [slots]
  if (largest === 1) return open;
  const token = cast(iota(fixed, 0), 'float32'),
    odd = less(mul(floor(mul(token, 0.5)), 2), token); // [tokens, slots]
  for (let turn = 1; turn < largest; turn++) {
    const other = rivals(families, turn),
      index = trace.constant({ dtype: 'int32', shape: [count] }, Int32Array.from(other));
    const against = takeAlong(fixed, expand(index, fixed, [0])); // [tokens, slots]
    const yields = where(odd, flags(other.map((r, e) => e < r)), flags(other.map((r, e) => e > r)));
    open = logicalAnd(open, logicalNot(logicalOr(less(fixed, against), logicalAnd(equal(fixed, against), yields))));
  }
  return open;
}

/** x where `open` is true, else `value`, by default -infinity. */
export const closed = (x: Tensor, open: Tensor, value = -Infinity): Tensor => where(open, x, scalar(x, value));

/** A number as data, so that another number compiles no kernel. */
export const numberOf = (like: Tensor, value: number): Tensor =>
  traceOf(like).constant({ dtype: like.dtype, shape: [] }, hostTensor(like.dtype, [], [value]).data);

/** bool [slots]: which slots hold an expert. */
export function activeSlots(like: Tensor, { families }: OpenSlots): Tensor {
  return set(
    traceOf(like).constant(
      { dtype: 'float32', shape: [families.length] },
      Float32Array.from(activeOf(families), Number),
    ),
  );
}

/** x float [slots], 0 where a slot is free -> its mean over experts. */
export const meanOfActive = (x: Tensor, { active }: OpenSlots): Tensor => div(sum(x), numberOf(x, active));
