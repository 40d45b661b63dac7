// Traces a session's graphs: output, loss, and the training step. In: a model and a batch; out: graphs.
import { cast } from '../graph/ops/elementwise/cast.ts';
import { UserError } from '../base/errors.ts';
import { sizes } from '../base/shape.ts';
import type { Graph } from '../graph/graph.ts';
import { add } from '../graph/ops/elementwise/add.ts';
import { mul } from '../graph/ops/elementwise/mul.ts';
import { Tensor } from '../graph/tensor.ts';
import type { Loss } from '../nn/loss.ts';
import { traceGraph, trainingGraph } from '../pipeline.ts';
import type { Knobs } from '../trace/knobs.ts';
import type { Named } from '../trace/module.ts';
import type { PublicState } from '../trace/public-state.ts';
import { call, type Trace } from '../trace/trace.ts';
import { inShares, outputTerms } from './means.ts';
import type { Rounding } from './needs.ts';
import { batchInputs, type BatchType } from './rows.ts';
import type { CompileOptions, Model, Phase } from './step.ts';
import type { Updating } from './updating.ts';

/** What tracing needs: a model with its names, the session's settings of its knobs, and its public properties. */
export interface Source {
  readonly model: Model;
  readonly named: Named;
  readonly options: Pick<CompileOptions, 'loss' | 'optimizer' | 'precision'>;
  readonly knobs: Knobs;
  readonly updating: Updating;
  readonly state: PublicState;
  /** null: in float32. */
  readonly rounding: Rounding | null;
}

/**
 * Sets the session's settings on the modules, traces, and restores what the user wrote there. observed: statistics
 * become outputs, too.
 */
export function sessionGraph(
  { named, knobs, state, rounding, options: { precision = 'float32' } }: Source,
  training: boolean,
  observed: boolean,
  build: (t: Trace) => void,
): Graph {
  const graph = state.tracing(() =>
    knobs.onModules(() =>
      traceGraph(named, training, (t) => {
        t.observed = observed;
        build(t);
        if (training || t.observed) for (const s of t.stats) t.output(`stat:${s.name}`, s.value);
      }),
    ),
  );
  if (!rounding) return graph;
  const rounded = rounding.withActivations(graph, named, precision);
  return training ? rounded : rounding.withStates(rounded, named, precision);
}

/**
 * The graph of a training step up to its losses, without gradients. phase: for one part of a batch. also: adds more
 * outputs to the graph.
 */
export function forwardGraph(
  source: Source,
  batch: BatchType,
  observed: boolean,
  phase: Phase,
  also?: (t: Trace) => void,
): Graph {
  const {
    model,
    options: { loss },
  } = source;
  return sessionGraph(source, true, observed, (t) => {
    t.inParts = phase !== undefined;
    t.samples = batch.ids && !batch.rows ? batch.x.shape[0] : null;
    lossGraph(t, batch, model, loss);
    also?.(t);
  });
}

/** The complete graph of a training step. phase: for one of `batches` micro-batches. */
export function stepGraph(source: Source, batch: BatchType, observed: boolean, phase: Phase, batches: number): Graph {
  const {
    options: { optimizer, precision = 'float32' },
    updating,
    rounding,
  } = source;
  if (!optimizer)
    throw new UserError('this session has no optimizer', 'compile(model, { loss, optimizer: optim.adamW({ lr }) })');
  const { trained, ...settings } = updating.options();
  const graph = trainingGraph(forwardGraph(source, batch, observed, phase), optimizer, trained, {
    ...settings,
    ...(phase && { accumulate: { batches, phase } }),
  });
  return rounding ? rounding.withStates(rounding.withSaved(graph, precision), source.named, precision) : graph;
}

/** Calls the model on x and checks that it returns a tensor. */
export function outputOf(model: Model, x: Tensor): Tensor {
  const output = call(model, x),
    given: unknown = output;
  if (!(given instanceof Tensor))
    throw new UserError(
      `the model's forward(x) must return a tensor, got ${Array.isArray(given) ? 'a list' : typeof given}`,
    );
  return output;
}

/**
 * Adds the outputs. In training: `loss`, `total` (with auxiliary losses) and each auxiliary loss; in a part of a
 * batch, each times the part's share. Otherwise: `loss`, the terms and counts of its means, and `output`.
 */
export function lossGraph(t: Trace, batch: BatchType, model: Model, lossOf: Loss): void {
  const { x, y } = batchInputs(t, batch);
  const output = outputOf(model, x),
    own = lossOf(output, y);
  if (own.shape.length !== 0) {
    throw new UserError(`the loss must be one number, got shape [${sizes(own.shape).join(', ')}]`, 'take its mean');
  }
  const loss = t.inParts ? inShares(t, own) : own;
  t.output('loss', loss);
  if (!t.training) {
    t.output('output', output);
    outputTerms(t, loss);
    return;
  }
  const losses = t.losses.map((l) => ({ ...l, value: t.inParts ? inShares(t, l.value) : l.value }));
  t.output(
    'total',
    losses.reduce((sum, l) => add(sum, cast(mul(l.value, l.coefficient), loss.dtype)), loss),
  );
  for (const l of losses) t.output(`aux:${l.name}`, l.value);
}
