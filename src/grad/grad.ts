// Gradients inside a model: a forward function or a loss may use the gradient of one value to others as tensors like
// any other, for gradient penalties, Hessian-vector products, inner steps of optimisation.
import { isFloat } from '../base/dtype.ts';
import { UserError } from '../base/errors.ts';
import { GraphBuilder } from '../graph/builder.ts';
import { zerosLike } from '../graph/ops/create/fill.ts';
import type { Tensor } from '../graph/tensor.ts';
import { gradients } from './differentiate.ts';

/**
 * Gradients of `loss`, one float number [], to each of `tensors` (float, of the same forward pass: inputs, intermediate
 * values, or parameters by `use(x, p)`), each of its tensor's shape; zeros where the loss does not depend on it. The
 * results are tensors of the graph: they can be computed with and differentiated again, as far as the rules compose. An
 * op on the way whose float result has no gradient rule is named in a UserError.
 *
 * A gradient penalty (Gulrajani et al. 2017, equation 3), in a loss or a forward function: `const [g] =
 * grad(sum(critic), [x])` is [batch, n], the penalty `mean(pow(sub(norm(g, [1]), 1), 2))`.
 */
export function grad(loss: Tensor, tensors: readonly Tensor[]): Tensor[] {
  const { builder } = loss;
  if (!(builder instanceof GraphBuilder))
    throw new UserError('grad: this tensor belongs to no graph that is being built');
  for (const t of tensors) {
    if (t.builder !== builder)
      throw new UserError('grad: a tensor belongs to another trace', 'do not keep tensors between traces');
    if (!isFloat(t.dtype)) throw new UserError(`grad: there is no gradient to ${t.dtype} values (${t.toString()})`);
  }
  return gradients(builder, loss, tensors).map((g, i) => g ?? zerosLike(tensors[i]));
}
