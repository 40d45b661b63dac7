// Kernels whose loops an op writes itself: gives the op a writer for loops, locals and reductions, and collects what it
// writes.
import { stridesOf, type TensorType } from '../base/shape.ts';
import { VerifyError } from '../base/errors.ts';
import type { Node, ValueId } from '../graph/graph.ts';
import type { LoopCall, LoopWriter, Place } from '../graph/op.ts';
import type { Expr } from '../kernel/expr.ts';
import type { Local, LoopKernel } from '../kernel/kernel.ts';
import { inPlaceInputs } from '../passes/own-before.ts';
import type { Scope, Storage } from './scope.ts';
import type { View } from './view.ts';

export function buildLoops({ graph, ops, limits }: Storage, scope: Scope, node: Node): LoopKernel {
  const lower = ops.get(node.op)?.lower;
  if (lower?.kind !== 'loops') throw new VerifyError('lower', `${node.op} has no lowering of kind loops`);
  const { e } = scope,
    locals: Local[] = [];
  const types = (vs: readonly number[]): TensorType[] => vs.map((v) => graph.types[v]);
  const unseen = [...(ops.get(node.op)?.unread ?? []), ...inPlaceInputs(node, ops)];
  const views = node.inputs.map((v, i) => (lower.strided?.includes(i) ? scope.view(v) : null));
  const inputs = node.inputs.map((v, i) => (unseen.includes(i) ? -1 : scope.buffer(views[i]?.of ?? v, 'read')));
  const outputs = node.outputs.map((v) => scope.buffer(v, lower.update ? 'update' : 'write'));
  const buffers = () => scope.buffers;
  /** The dtypes in which the op sees its inputs: 16-bit floats in memory may stand for float32. */
  const dtypes = new Map(node.inputs.map((v, i) => [inputs[i], graph.types[v].dtype]));
  const asExpr = (x: Expr | number): Expr => (typeof x === 'number' ? e.index(x) : x);
  const loop =
    (parallel: boolean): LoopWriter['loop'] =>
    (extent, body) => {
      const index = e.loop(extent);
      return { s: 'for', index, extent: asExpr(extent), parallel, body: body(index) };
    };
  const k: LoopWriter = {
    scalar(dtype) {
      const id = locals.push({ dtype, length: 0 }) - 1;
      return { id, get: () => e.local(id, dtype), set: (value) => ({ s: 'set', local: id, index: null, value }) };
    },
    array(dtype, length) {
      const id = locals.push({ dtype, length }) - 1;
      return {
        id,
        at: (index) => e.local(id, dtype, index),
        set: (index, value) => ({ s: 'set', local: id, index, value }),
        fill: (value) => ({ s: 'fill', local: id, value }),
      };
    },
    loop: loop(false),
    vector: loop(true),
    when: (condition, body) => ({ s: 'if', condition, body }),
    histogram(counts, extent, key) {
      const index = e.loop(extent);
      return { s: 'histogram', index, extent, key: key(index), to: counts.id };
    },
    scan: (array, total) => ({ s: 'scan', array: array.id, total: total.id }),
    rank(next, extent, key, body) {
      const index = e.loop(extent),
        [own, place] = [k.scalar('int32'), k.scalar('int32')],
        ids = { next: next.id, key: own.id, place: place.id };
      return { s: 'rank', index, extent, value: key(index), ...ids, body: body(index, place.get()) };
    },
    load(buffer, index) {
      const element = e.load(buffer, index, buffers()[buffer].dtype),
        wanted = dtypes.get(buffer);
      return wanted === undefined || wanted === element.dtype ? element : e.cast(element, wanted);
    },
    loadIndex: (buffer, index) => e.op('cast', [e.load(buffer, index, buffers()[buffer].dtype)], 'index'),
    store: (buffer, index, value) => ({ s: 'store', buffer, index, value }),
    extent: scope.extent,
    parts: scope.parts,
    int: (value) => e.int(scope.ints.push(value) - 1),
  };
  const placeOf = (
    v: ValueId,
    buffer: number,
    { offset, strides }: Pick<View, 'offset' | 'strides'> = { offset: 0, strides: stridesOf(graph.types[v].shape) },
  ): Place => ({
    buffer,
    dtype: buffers().at(buffer)?.dtype ?? graph.types[v].dtype,
    strides,
    at: (index) =>
      e.linear(
        offset,
        index.map((x, d) => [strides[d], x]),
      ),
  });
  const from = node.inputs.map((v, i) => placeOf(v, inputs[i], views[i] ?? undefined)),
    to = node.outputs.map((v, i) => placeOf(v, outputs[i]));
  const call: LoopCall = {
    e,
    k,
    limits,
    inputs,
    outputs,
    from,
    to,
    attrs: node.attrs,
    inTypes: types(node.inputs),
    outTypes: types(node.outputs),
  };
  const spec = lower.build(call);
  const index = e.loop(spec.grid.extent, 'g');
  const body = spec.body(index);
  return {
    form: 'loops',
    buffers: scope.buffers,
    locals,
    ints: scope.ints.length,
    grid: { index, extent: asExpr(spec.grid.extent), work: spec.grid.work, elements: false, row: null },
    body,
  };
}
