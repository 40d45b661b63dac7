// Graph to Graph: gradients become updates of the states. The chain gradient -> [accumulate] -> [clip] -> guard ->
// update is explicit; one flag word guards every store to a state, so that a failed step changes nothing.
import { isFloat, type DType } from '../base/dtype.ts';
import { boundOf } from '../base/shape.ts';
import { UserError, VerifyError } from '../base/errors.ts';
import { GraphBuilder, type OpTable } from '../graph/builder.ts';
import type { Graph } from '../graph/graph.ts';
import { emit1, scalar as literal, zeros, type Tensor } from '../graph/tensor.ts';
import { add } from '../graph/ops/elementwise/add.ts';
import { cast } from '../graph/ops/elementwise/cast.ts';
import { div } from '../graph/ops/elementwise/div.ts';
import { isFinite } from '../graph/ops/elementwise/isFinite.ts';
import { less } from '../graph/ops/elementwise/less.ts';
import { mul } from '../graph/ops/elementwise/mul.ts';
import { sqrt } from '../graph/ops/elementwise/sqrt.ts';
import { sum } from '../graph/ops/reduce/sum.ts';
import { where } from '../graph/ops/elementwise/where.ts';
import type { Frozen } from './ages.ts';
import type { ParameterSettings } from './groups.ts';
import type { Optimizer } from './optimizer.ts';

/** Bits of the flag word. */
export const FLAG = { loss: 1, gradient: 2, dry: 4 } as const;

export interface UpdateOptions {
  /**
   * In how many parts sums over samples are added (base/parts.ts); default 1. With several, the norm of a bank of
   * experts is summed expert by expert.
   */
  readonly parts?: number;
  /**
   * With gradient accumulation over n batches: 'add' adds to the sum, 'apply' adds and then updates. n = 1: no sum is
   * kept.
   */
  readonly accumulate?: { readonly batches: number; readonly phase: 'add' | 'apply' };
  /**
   * Parameters that keep their values and moments, or of which some parts along a dimension keep them; also those that
   * the model updates itself and no optimiser does (running statistics).
   */
  readonly frozen?: ReadonlyMap<string, Frozen>;
  /** Roles of parameters and their settings from groups; default: all are weights without settings. */
  readonly settled?: ReadonlyMap<string, ParameterSettings>;
  /**
   * Parameters whose moments have ages that differ from the session's step, with the shape of the scalars that depend
   * on age: [], or [.., parts, 1, ..].
   */
  readonly aged?: ReadonlyMap<string, readonly number[]>;
}

/** The input that holds a scalar for a parameter whose moments have an age of their own. */
export const agedName = (scalar: string, parameter: string): string => `${scalar}@${parameter}`;
export const momentName = (moment: string, parameter: string): string => `optim/${moment}/${parameter}`;
/**
 * The moment and the parameter to which a state belongs; null: the state is no moment. Names of parameters may contain
 * slashes.
 */
export function momentOf(state: string): { readonly moment: string; readonly parameter: string } | null {
  const parameter = ownerOf(state),
    [, moment] = state.split('/');
  return parameter !== null && moment !== 'sum' ? { moment, parameter } : null;
}
/**
 * The parameter to which a state of the optimiser (a moment or a sum of gradients) belongs; null: it is no such state.
 */
export const ownerOf = (state: string): string | null => /^optim\/[^/]*\/(.+)$/s.exec(state)?.[1] ?? null;
/** The name of the same hyper-parameter for parameters in float64. */
export const float64Scalar = (name: string): string => `${name}/float64`;
export const accumulatorName = (parameter: string): string => `optim/sum/${parameter}`;

/**
 * Replaces the outputs `grad/NAME` by updates, and guards the updates that the model makes itself. With accumulation,
 * running statistics get the mean over micro-batches; in a memory of choices, each micro-batch writes its own rows.
 * Adds two outputs: `flag` (int32, 0 = committed), and `grad_norm`, the Euclidean norm of all gradients together
 * without frozen parts, which is not finite if any gradient is not.
 */
export function addUpdates(graph: Graph, ops: OpTable, optimizer: Optimizer, options: UpdateOptions = {}): Graph {
  const builder = GraphBuilder.resume(
    { ...graph, outputs: graph.outputs.filter((o) => !o.name.startsWith('grad/')), updates: [] },
    ops,
  );
  builder.scope = 'optim';
  const state = (name: string): Tensor | null => {
    const found = builder.inputs.find((i) => i.kind === 'state' && i.name === name);
    return found ? builder.tensor(found.value) : null;
  };
  const loss = graph.outputs.find((o) => o.name === 'total') ?? graph.outputs.find((o) => o.name === 'loss');
  if (!loss) throw new VerifyError('optim', 'the graph has no output named loss');
  const phase = options.accumulate?.phase,
    batches = options.accumulate?.batches ?? 1;

  /**
   * With accumulation: the sum of the value and of those of earlier micro-batches, and the state that holds the sum.
   */
  const accumulated = (name: string, value: Tensor): { value: Tensor; sumState: Tensor | null } => {
    if (phase === undefined) return { value, sumState: null };
    const { axes } = state(name)?.type ?? {},
      sumState = builder.newState(accumulatorName(name), { ...value.type, ...(axes && { axes }) }),
      total = add(sumState, value);
    return { value: phase === 'apply' ? mul(total, 1 / batches) : total, sumState };
  };

  const work = graph.outputs
    .filter((o) => o.name.startsWith('grad/'))
    .map(({ name, value }) => {
      const parameterName = name.slice('grad/'.length),
        parameter = state(parameterName);
      if (!parameter) throw new VerifyError('optim', `no state ${parameterName}`);
      const { value: gradient, sumState } = accumulated(parameterName, builder.tensor(value));
      return { parameterName, parameter, gradient, sumState };
    });
  const frozen = options.frozen ?? new Map<string, never>();
  /** `value`, but `old` for frozen parts. */
  const exceptFrozen = (name: string, old: Tensor, value: Tensor): Tensor => {
    const kept = frozen.get(name);
    return kept === undefined ? value : where(less(maskOf(builder, kept, old), 0.5), value, old);
  };
  const nameOf = (id: number): string => graph.inputs.find((i) => i.value === id)?.name ?? '';
  const own = graph.updates
    .filter(({ state }) => frozen.get(nameOf(state))?.parts !== true)
    .map(({ state: id, value }) => {
      const name = nameOf(id),
        maker = graph.nodes.find((n) => n.outputs[0] === value);
      // In a memory that is written in place (Op.inPlaceOf), each micro-batch writes its own rows.
      const inPlaceOf = maker && ops.get(maker.op)?.inPlaceOf;
      if (typeof inPlaceOf === 'number' && maker?.inputs[inPlaceOf] === id)
        return { name, target: builder.tensor(id), value: builder.tensor(value), sumState: null };
      if (phase !== undefined && !isFloat(graph.types[id].dtype))
        throw new UserError(
          `${name}: values that are no floats have no mean over micro-batches`,
          'leave out accumulate',
        );
      return { name, target: builder.tensor(id), ...accumulated(name, builder.tensor(value)) };
    });
  if (work.length === 0) {
    if (!graph.inputs.some((i) => i.kind === 'state'))
      throw new UserError(
        'the model has no parameter to train',
        'its layers must be properties of the model, and forward must use them',
      );
    throw new UserError(
      'there is nothing to train',
      'every parameter that the loss follows from is frozen, or not one to be trained',
    );
  }
  if (optimizer.eager && (optimizer.clip !== undefined || phase !== undefined)) {
    throw new UserError(
      'an eager optimiser cannot clip or accumulate gradients: both need all of them',
      'leave out eager',
    );
  }

  const commit = builder.input('input', 'commit', { dtype: 'int32', shape: [] });
  const total = builder.tensor(loss.value);
  const unless = (condition: Tensor, bit: number): Tensor => where(condition, literal(commit, 0), literal(commit, bit));
  const early = add(unless(isFinite(total), FLAG.loss), unless(less(literal(commit, 0), commit), FLAG.dry));
  // Gradients of frozen parts are not used, so they count neither for clipping nor for the check that all are finite.
  // The mask is applied where squares are summed, and not stored.
  const counted = ({
    parameterName,
    parameter,
    gradient,
  }: {
    readonly parameterName: string;
    readonly parameter: Tensor;
    readonly gradient: Tensor;
  }): Tensor => {
    const kept = frozen.get(parameterName),
      squares = mul(gradient, gradient),
      all = kept ? where(less(maskOf(builder, kept, gradient), 0.5), squares, literal(squares, 0)) : squares;
    if ((options.parts ?? 1) === 1 || parameter.type.axes?.[0] !== 'expert') return sum(all);
    const axes = all.shape.map((_, d) => d).slice(1);
    return emit1('sum', [axes.length > 0 ? sum(all, axes) : all], { axes: [0], serial: true });
  };
  const widest = work.some(({ gradient }) => gradient.dtype === 'float64') ? 'float64' : 'float32';
  const norm = optimizer.eager ? null : sqrt(work.map((w) => cast(counted(w), widest)).reduce((a, b) => add(a, b)));
  const flag = norm ? add(early, unless(isFinite(norm), FLAG.gradient)) : early;
  builder.output('flag', flag);
  if (norm) builder.output('grad_norm', norm);

  const scalars = new Map<string, Tensor>();
  const scalarOf = (name: string, dtype: DType, shape: readonly number[] = []): Tensor => {
    const own = dtype === 'float64' ? float64Scalar(name) : name,
      made = scalars.get(own) ?? builder.input('input', own, { dtype, shape });
    scalars.set(own, made);
    return made;
  };
  const limit =
    norm === null || optimizer.clip === undefined ? null : div(literal(norm, optimizer.clip), add(norm, 1e-6));
  const scale = limit && where(less(limit, 1), limit, literal(limit, 1));

  /** Whether the sum continues with the next micro-batch; when it is complete, it starts again at 0. */
  const keepsSum = (sumState: Tensor | null, value: Tensor): boolean => {
    if (sumState === null) return false;
    builder.update(sumState, phase === 'add' ? value : zeros(value), flag);
    return phase === 'add';
  };
  for (const { name, target, value, sumState } of own)
    if (!keepsSum(sumState, value)) builder.update(target, exceptFrozen(name, target, value), flag);
  for (const { parameterName, parameter, gradient, sumState } of work) {
    if (keepsSum(sumState, gradient)) continue;
    const aged = options.aged?.get(parameterName),
      said = options.settled?.get(parameterName);
    const { role = 'weight', lr = 1, decay } = said ?? {};
    const own = parameter.shape.map(boundOf),
      experts = parameter.type.axes?.[0] === 'expert',
      shapes = optimizer.momentShapes?.({ shape: own, role, experts });
    const moments = new Map<string, Tensor>();
    const moment = (name: string): Tensor => {
      const type = { ...parameter.type, shape: shapes?.[name] ?? own },
        made = moments.get(name) ?? builder.newState(momentName(name, parameterName), type);
      moments.set(name, made);
      return made;
    };
    const scalar = (name: string): Tensor =>
      aged && optimizer.corrected?.includes(name)
        ? scalarOf(agedName(name, parameterName), parameter.dtype, aged)
        : scalarOf(name, parameter.dtype);
    const seen = shapes ? exceptFrozen(parameterName, literal(gradient, 0), gradient) : gradient,
      taken = scale ? mul(seen, cast(scale, gradient.dtype)) : seen;
    const next = optimizer.update({ parameter, gradient: taken, role, experts, lr, decay, moment, scalar });
    builder.update(parameter, exceptFrozen(parameterName, parameter, next.parameter), flag);
    for (const [name, value] of Object.entries(next.moments))
      builder.update(moment(name), exceptFrozen(parameterName, moment(name), value), flag);
  }
  return builder.build();
}

/**
 * 1 where a part along `axis` is frozen, else 0: [.., parts, 1, ..]. The mask is data, so that freezing another part
 * needs no recompilation.
 */
function maskOf(builder: GraphBuilder, { parts: kept, axis }: Frozen, like: Tensor): Tensor {
  const parts = kept === true ? new Array<boolean>(boundOf(like.shape[axis])).fill(true) : kept;
  const name = `frozen/${parts.map(Number).join('')}/${axis}/${like.shape.length}`,
    found = builder.inputs.find((i) => i.kind === 'constant' && i.name === name);
  if (found) return builder.tensor(found.value);
  const shape = like.shape.map((_, d) => (d === axis ? parts.length : 1));
  return builder.input('constant', name, { dtype: 'float32', shape }, Float32Array.from(parts, Number));
}
