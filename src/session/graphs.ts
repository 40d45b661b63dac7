// What a session traces: the model's output, and its loss. In: a trace and a batch; out: outputs of the graph by name.
import { UserError } from '../base/errors.ts';
import { sizes } from '../base/shape.ts';
import type { Batch } from '../base/tensor.ts';
import { add } from '../graph/ops/add.ts';
import { mul } from '../graph/ops/mul.ts';
import { Tensor } from '../graph/tensor.ts';
import type { Loss } from '../nn/loss.ts';
import { call, type Trace } from '../trace/trace.ts';
import type { Model } from './step.ts';

/** The model's output in the graph of x. */
export function outputOf(model: Model, x: Tensor): Tensor {
  const output = call(model, x), given: unknown = output;
  if (!(given instanceof Tensor)) throw new UserError(`the model's forward(x) must return a tensor, got ${Array.isArray(given) ? 'a list' : typeof given}`);
  return output;
}

/** In training `loss`, `total` (with auxiliary losses) and those alone; else `loss` and `output`. */
export function lossGraph(t: Trace, batch: Batch, model: Model, lossOf: Loss): void {
  const x = t.input('input', 'x', batch.x), y = t.input('input', 'y', batch.y);
  const output = outputOf(model, x), loss = lossOf(output, y);
  if (loss.shape.length !== 0) throw new UserError(`the loss must be one number, got shape [${sizes(loss.shape).join(', ')}]`, 'take its mean');
  t.output('loss', loss);
  if (!t.training) {
    t.output('output', output);
    return;
  }
  t.output('total', t.losses.reduce((sum, l) => add(sum, mul(l.value, l.coefficient)), loss));
  for (const l of t.losses) t.output(`aux:${l.name}`, l.value);
}
