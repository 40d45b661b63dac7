// A matmul with its epilogue: what is computed from each of its sums before they are stored.
import { stridesOf } from '../base/shape.ts';
import { VerifyError } from '../base/errors.ts';
import type { Graph, Node, ValueId } from '../graph/graph.ts';
import type { OpTable } from '../graph/builder.ts';
import type { Extent, Local, MatmulKernel } from '../kernel/kernel.ts';
import { hoistInvariants } from '../kernel/hoist.ts';
import { asSet } from '../kernel/rewrite.ts';
import type { Scope } from './scope.ts';

export function buildMatmul(
  graph: Graph,
  ops: OpTable,
  scope: Scope,
  node: Node,
  roots: readonly ValueId[],
): MatmulKernel {
  const lower = ops.get(node.op)?.lower;
  if (lower?.kind !== 'matmul') throw new VerifyError('lower', `${node.op} has no lowering of kind matmul`);
  const { e } = scope,
    out = node.outputs[0],
    type = graph.types[out];
  const spec = lower.build(scope.call(node));
  const size = (x: Extent): number => (typeof x === 'number' ? x : Infinity);
  const [z, i, j, k] = [
    e.loop(spec.groups, 'z'),
    e.loop(size(spec.m), 'i'),
    e.loop(spec.n, 'j'),
    e.loop(size(spec.depth), 'k'),
  ];
  const a = spec.a(z, i, k),
    b = spec.b(z, k, j);
  const strides = stridesOf(type.shape);
  const linear = e.linear(
    0,
    spec.index(z, i, j).map((x, d) => [strides[d], x]),
  );
  scope.beginEpilogue(out, linear);
  const locals: Local[] = [];
  const items = roots.map((v) => ({ buffer: scope.buffer(v, 'write'), at: linear, value: scope.linear(v, linear) }));
  const { before, items: hoisted } = hoistInvariants(e, items, asSet(j, e.sum(type.dtype)), locals);
  return {
    form: 'matmul',
    buffers: scope.buffers,
    locals,
    ints: scope.ints.length,
    z,
    i,
    j,
    k,
    groups: spec.groups,
    m: spec.m,
    n: spec.n,
    depth: spec.depth,
    parts: spec.parts ?? null,
    a,
    b,
    dtype: type.dtype,
    epilogue: {
      row: before,
      element: hoisted.map((h) => ({ s: 'store', buffer: h.buffer, index: h.at, value: h.value })),
    },
  };
}
