// A sum of many elements to one number becomes partial sums, which threads share, and the sum of these in order. The
// bits stay the same, since a long sum is defined as the sum of its chunks.
import { elements } from '../base/shape.ts';
import type { Graph } from '../graph/graph.ts';
import { SUM_CHUNK } from '../graph/ops/moe/sumChunks.ts';
import { rebuild } from './rebuild.ts';

export function splitLongSums(graph: Graph): Graph {
  return rebuild(graph, (node, to) => {
    const [x] = node.inputs,
      type = node.op === 'sum' && node.attrs['parts'] === undefined ? graph.types[x] : undefined;
    const whole = type !== undefined && (node.attrs['axes'] as readonly number[]).length === type.shape.length;
    if (!type || !whole || type.shape.some((d) => typeof d !== 'number') || elements(type.shape) <= 2 * SUM_CHUNK) {
      to.keep(node);
      return;
    }
    const shape = [Math.ceil(elements(type.shape) / SUM_CHUNK)];
    const parts = to.make('sumChunks', [to.map(x)], {}, [{ dtype: type.dtype, shape }], node.scope);
    to.replace(
      node.outputs[0],
      to.make('sum', [parts], { axes: [0], serial: true }, [{ dtype: type.dtype, shape: [] }], node.scope),
    );
  });
}
