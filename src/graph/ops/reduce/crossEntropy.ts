// Cross-entropy of integer targets from logits, in nats: log(sum(exp(x))) - x[target] for each row, without computing
// probabilities.
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, sameShape, showShape, showType } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit, emit1, type Tensor } from '../../tensor.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    crossEntropy: NoAttrs;
  }
}

export const crossEntropyOp: Op = {
  // -log softmax(logits)[target] per row; and log(sum(exp(logits))).
  name: 'crossEntropy',
  keepsRows: true,
  takes: ['floats'],
  infer([x, target]) {
    if (typeof x.shape.at(-1) !== 'number')
      throw new ShapeError(`crossEntropy: needs a last dimension of fixed size, got ${showType(x)}`);
    if (target.dtype !== 'int32' || !sameShape(x.shape.slice(0, -1), target.shape)) {
      throw new ShapeError(
        `crossEntropy: targets must be int32 of the logits' shape without the classes, got ` +
          `${target.dtype}${showShape(target.shape)} for ${showShape(x.shape)}`,
      );
    }
    return [
      { dtype: x.dtype, shape: target.shape },
      { dtype: x.dtype, shape: target.shape },
    ];
  },
  // d loss / d x = softmax(x) - onehot(target); softmax(x) = exp(x - lse).
  grad({ inputs: [x, target], outputs: [, lse], douts: [dloss, dlse] }) {
    const axes = [x.shape.length - 1];
    const wide = (t: Tensor): Tensor => emit1('expand', [t, x], { axes });
    const p = emit1('exp', [emit1('sub', [x, wide(lse)])]);
    const hot = emit1('cast', [emit1('oneHot', [target], { classes: boundOf(x.shape[axes[0]]) })], { dtype: x.dtype });
    const a = dloss && emit1('mul', [emit1('sub', [p, hot]), wide(dloss)]);
    const b = dlse && emit1('mul', [p, wide(dlse)]);
    return [a && b ? emit1('add', [a, b]) : (a ?? b), null];
  },
  lower: {
    kind: 'map',
    weight: 40,
    passes: 2,
    at({ e, inputs: [x, target] }, index, output) {
      const dtype = x.type.dtype,
        n = boundOf(x.type.shape[x.type.shape.length - 1]);
      const max = e.reduce('max', 'lanes', n, (c) => x.at([...index, c]));
      const sum = e.reduce('sum', 'lanes', n, (c) => e.op('exp', [e.op('sub', [x.at([...index, c]), max])]));
      const lse = e.op('add', [e.op('log', [sum]), max]);
      if (output === 1) return lse;
      const t = e.cast(target.at(index), 'index');
      // For a target outside the classes no memory is read, and the loss is NaN, which stops the run.
      const inside = e.and(e.le(e.index(0), t), e.lt(t, e.index(n)));
      const picked = x.at([...index, e.select(inside, t, e.index(0))]);
      return e.select(inside, e.op('sub', [lse, picked]), e.const(NaN, dtype));
    },
  },
};

/** Per-row loss in nats: logits [..., classes], targets int32 [...] -> [...]. */
export const crossEntropy = (logits: Tensor, targets: Tensor): Tensor => emit('crossEntropy', [logits, targets])[0];
