// Constants: computes results that are known now, and drops operations that change no bit: x * 1, x / 1, x - 0,
// stopGradient, a reshape of a reshape, a transpose and its inverse. (x + 0 is kept: it turns -0 into +0.)
import { castValue } from '../base/convert.ts';
import { isFloat } from '../base/dtype.ts';
import { boundOf, sameShape, type TensorType } from '../base/shape.ts';
import type { Graph, Node, ValueId } from '../graph/graph.ts';
import type { OpTable } from '../graph/builder.ts';
import { rebuild, type Rebuild } from './rebuild.ts';

export function foldConstants(graph: Graph, ops: OpTable): Graph {
  const constants = new Map<ValueId, number>();
  /** The nodes that the next of their kind may undo. */
  const made = new Map<ValueId, Node>();
  return rebuild(graph, (node, to) => {
    const simpler = node.outputs.length === 1 ? simplify(node, to) : null;
    if (simpler !== null) {
      to.replace(node.outputs[0], simpler);
      return;
    }
    to.keep(node);
    if (node.op === 'constant')
      constants.set(
        to.map(node.outputs[0]),
        castValue(node.attrs['value'] as number, graph.types[node.outputs[0]].dtype, 'float64'),
      );
    else if (node.op === 'reshape' || node.op === 'transpose')
      made.set(to.map(node.outputs[0]), { ...node, inputs: node.inputs.map((v) => to.map(v)) });
  });

  function simplify(node: Node, to: Rebuild): ValueId | null {
    const inputs = node.inputs.map((v) => to.map(v)),
      type = to.mapped(node.outputs[0]);
    const known = inputs.map((v) => constants.get(v)),
      unread = ops.get(node.op)?.unread ?? [];
    if (inputs.length > 0 && known.every((k, i) => k !== undefined || unread.includes(i)) && uniform(node, type))
      return evaluate(node, inputs, known, type, to);
    const [a, b] = inputs,
      whole = (v: ValueId): boolean => sameShape(to.typeOf(v).shape, type.shape) && to.typeOf(v).dtype === type.dtype;
    if ((node.op === 'mul' || node.op === 'div') && known[1] === 1 && whole(a)) return a;
    if (node.op === 'mul' && known[0] === 1 && whole(b)) return b;
    if (node.op === 'sub' && Object.is(known[1], 0) && whole(a)) return a;
    if (node.op === 'stopGradient') return a; // all gradients are in the graph already
    const inner = made.get(a);
    if (node.op === 'reshape' && whole(a)) return a;
    if (node.op === 'reshape' && inner?.op === 'reshape') {
      return whole(inner.inputs[0])
        ? inner.inputs[0]
        : to.make('reshape', inner.inputs, node.attrs, [type], node.scope);
    }
    if (node.op === 'transpose' && inner?.op === 'transpose') {
      const [second, first] = [node.attrs['order'] as number[], inner.attrs['order'] as number[]];
      if (second.every((d, i) => first[d] === i)) return inner.inputs[0];
    }
    return null;
  }

  /** Ops whose result has the same value everywhere if each operand has. */
  function uniform(node: Node, type: TensorType): boolean {
    const lower = ops.get(node.op)?.lower;
    const elementwise = lower?.kind === 'map' && lower.linear !== undefined;
    return (elementwise || node.op === 'expand') && !type.shape.some((d) => typeof d !== 'number');
  }

  function evaluate(
    node: Node,
    inputs: readonly ValueId[],
    known: readonly (number | undefined)[],
    type: TensorType,
    to: Rebuild,
  ): ValueId | null {
    const op = ops.get(node.op);
    // An elementary function such as exp must be computed by the device itself: devices differ in the last bit.
    if (!op || op.lower.kind !== 'map' || (op.lower.weight ?? 1) > 4) return null;
    const one = (dtype: TensorType['dtype']): TensorType => ({ dtype, shape: [] });
    const call = {
      inputs: known.map((k) => Float64Array.of(k ?? NaN)),
      inTypes: inputs.map((v) => one(to.typeOf(v).dtype)),
      outTypes: [one(type.dtype)],
      attrs: node.attrs,
      rows: () => 1,
      offsets: () => [0, 1],
    };
    // Operands are values of their dtype, and references compute integers modulo 2^32: one more rounding gives the
    // value that a device would compute.
    const raw = node.op === 'expand' || node.op === 'reshape' ? known[0] : op.reference?.(call)[0][0];
    if (raw === undefined) return null;
    const value = castValue(raw, type.dtype, isFloat(type.dtype) ? 'float64' : type.dtype);
    const made = to.make(
      'constant',
      [],
      { value, dtype: type.dtype, shape: type.shape.map(boundOf) },
      [type],
      node.scope,
    );
    constants.set(made, value);
    return made;
  }
}
