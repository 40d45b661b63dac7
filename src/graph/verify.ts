// Checks a Graph: every value is made once, before it is read; types follow from the shape rules; dimensions refer to
// int32 values that exist; updates fit their states.
import { VerifyError } from '../base/errors.ts';
import { isDynamic, sameShape, showType } from '../base/shape.ts';
import { dimValues, type Graph } from './graph.ts';
import type { OpTable } from './builder.ts';

/**
 * Runs stages one after the other and verifies the last result only: graphs are compiled while training runs, and one
 * check costs as much as a pass. If the result is wrong, or a stage throws, the stages run again, each verified, so
 * that the error names the first that failed.
 */
export function verifyStages(
  graph: Graph,
  ops: OpTable,
  stages: readonly { readonly name: string; run(graph: Graph): Graph }[],
): Graph {
  try {
    return verifyGraph(
      stages.reduce((g, s) => s.run(g), graph),
      ops,
      stages[stages.length - 1]?.name ?? '',
    );
  } catch {
    return stages.reduce((g, s) => verifyGraph(s.run(g), ops, s.name), graph);
  }
}

export function verifyGraph(graph: Graph, ops: OpTable, stage: string): Graph {
  const fail = (message: string): never => {
    throw new VerifyError(stage, message);
  };
  const made = new Set<number>();
  const define = (v: number, by: string): void => {
    if (made.has(v)) fail(`%${v} is made twice (${by})`);
    if (!graph.types[v]) fail(`%${v} has no type`);
    const { shape, axes } = graph.types[v];
    if (axes && axes.length !== shape.length) fail(`%${v} has ${shape.length} dimensions and ${axes.length} axes`);
    if (by !== 'input' && isDynamic(graph.types[v].shape))
      for (const d of dimValues(graph.types[v]))
        if (!made.has(d)) fail(`%${v}: its dimension reads %${d}, which is not made before it`);
    made.add(v);
  };
  for (const input of graph.inputs) define(input.value, 'input');
  for (const node of graph.nodes) {
    const op = ops.get(node.op) ?? fail(`unknown op ${node.op}`);
    for (const v of node.inputs) if (!made.has(v)) fail(`${node.op} reads %${v} before it is made`);
    const types = op.infer(
      node.inputs.map((v) => graph.types[v]),
      node.attrs,
      node.inputs,
    );
    if (types.length !== node.outputs.length)
      fail(`${node.op} makes ${types.length} values, not ${node.outputs.length}`);
    node.outputs.forEach((v, i) => {
      define(v, node.op);
      const got = graph.types[v];
      if (got.dtype !== types[i].dtype || !sameShape(got.shape, types[i].shape)) {
        fail(`%${v} = ${node.op}: has type ${showType(got)}, its rule says ${showType(types[i])}`);
      }
    });
  }
  // An input exists from the start, but the count of its rows may be computed by a node.
  for (const i of graph.inputs)
    for (const d of dimValues(graph.types[i.value]))
      if (!made.has(d)) fail(`${i.name}: its dimension reads %${d}, which is never made`);
  for (const { name, value } of graph.outputs) if (!made.has(value)) fail(`output ${name} is never made`);
  const states = new Set(graph.inputs.filter((i) => i.kind === 'state').map((i) => i.value));
  const updated = new Set<number>();
  for (const { state, value, unless } of graph.updates) {
    if (!states.has(state)) fail(`%${state} is updated but is no state`);
    if (updated.has(state)) fail(`%${state} is updated twice`);
    updated.add(state);
    const [s, v] = [graph.types[state], graph.types[value]];
    if (!made.has(value) || s.dtype !== v.dtype || !sameShape(s.shape, v.shape))
      fail(`update of %${state} does not fit ${showType(s)}`);
    if (unless !== null && (!made.has(unless) || graph.types[unless].dtype !== 'int32'))
      fail('the guard of an update is no int32 value');
  }
  return graph;
}
