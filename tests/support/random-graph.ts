// Random graphs: chains and joins of ops over a few shapes, with outputs and updates. Tests use them to check that no
// decision of the compiler (what is stored, fused, written in place, or run in parallel) changes results.
import { boundOf, sameShape } from '../../src/base/shape.ts';
import { Stream } from '../../src/base/random.ts';
import { GraphBuilder } from '../../src/graph/builder.ts';
import type { Graph } from '../../src/graph/graph.ts';
import { ops } from '../../src/graph/ops/index.ts';
import { emit1, scalar, type Tensor } from '../../src/graph/tensor.ts';

export interface RandomGraph {
  readonly graph: Graph;
  readonly inputs: Record<string, Float32Array | Int32Array>;
  readonly states: Record<string, Float32Array>;
}

export function randomGraph(seed: number, size: number): RandomGraph {
  const stream = new Stream(seed, 'graph'),
    builder = new GraphBuilder(ops);
  let drawn = 0;
  const draw = (n: number): number => Math.floor(stream.uniform(0, drawn++) * n);
  const floats = (n: number): Float32Array =>
    Float32Array.from({ length: n }, () => stream.uniform(1, drawn++) * 2 - 1);
  const [a, b, c] = [1 + draw(5), 1 + draw(9), 1 + draw(40)];
  const inputs: RandomGraph['inputs'] = {},
    states: RandomGraph['states'] = {},
    pool: Tensor[] = [];
  for (const [i, shape] of [[a, b, c], [b, c], [c], [a, b, c]].entries()) {
    pool.push(builder.input('input', `x${i}`, { dtype: 'float32', shape }));
    inputs[`x${i}`] = floats(shape.reduce((n, d) => n * d, 1));
  }
  const stateTensors = [[a, b, c], [c], [b, c]].map((shape, i) => {
    states[`s${i}`] = floats(shape.reduce((n, d) => n * d, 1));
    return builder.newState(`s${i}`, { dtype: 'float32', shape });
  });
  pool.push(...stateTensors);
  const pick = (): Tensor => pool[draw(pool.length)];
  const tame = (x: Tensor): Tensor => emit1('tanh', [x]); // values stay near 1, so that errors do
  for (let i = 0; i < size; i++) {
    const x = pick(),
      rank = x.shape.length,
      dims = x.shape.map(boundOf);
    switch (draw(12)) {
      case 0:
        pool.push(emit1('add', [x, scalar(x, 0.5)]));
        break;
      case 1: {
        const same = pool.filter((y) => fits(x, y));
        pool.push(tame(emit1((['add', 'sub', 'mul'] as const)[draw(3)], [x, same[draw(same.length)]])));
        break;
      }
      case 2:
        pool.push(emit1((['neg', 'tanh', 'sigmoid', 'gelu', 'silu', 'abs'] as const)[draw(6)], [x]));
        break;
      case 3:
        if (rank > 0) pool.push(tame(emit1('sum', [x], { axes: [rank - 1] })));
        break;
      case 4:
        if (rank > 1) pool.push(tame(emit1('sum', [x], { axes: [0] })));
        break;
      case 5:
        if (rank > 1)
          pool.push(emit1('reshape', [x], { shape: [dims.slice(0, -1).reduce((n, d) => n * d, 1), dims[rank - 1]] }));
        break;
      case 6:
        if (rank > 1)
          pool.push(emit1('transpose', [x], { order: x.shape.map((_, d) => (d < rank - 2 ? d : 2 * rank - 3 - d)) }));
        break;
      case 7:
        if (rank > 0) pool.push(emit1('softmax', [x]));
        break;
      case 8:
        if (rank === 2) pool.push(tame(emit1('matmul', [x, x], { transA: false, transB: true })));
        break;
      case 9:
        if (rank === 2) pool.push(tame(emit1('matmul', [x, tame(x)], { transA: true, transB: false })));
        break;
      case 10:
        if (rank > 0 && dims[rank - 1] > 2)
          pool.push(emit1('slice', [x], { axis: rank - 1, from: 1, to: dims[rank - 1] - 1 }));
        break;
      case 11:
        if (rank > 0) {
          const s = emit1('sum', [x], { axes: [rank - 1] });
          pool.push(tame(emit1('mul', [x, emit1('expand', [s, x], { axes: [rank - 1] })])));
        }
        break;
    }
  }
  const commit = builder.input('input', 'commit', { dtype: 'int32', shape: [] });
  inputs['commit'] = Int32Array.of(1);
  const flag = emit1('sub', [scalar(commit, 1), commit]);
  for (const [i, state] of stateTensors.entries()) {
    const same = pool.filter((y) => y !== state && sameShape(y.shape, state.shape));
    if (same.length > 0)
      builder.update(
        state,
        emit1('mul', [emit1('add', [state, same[draw(same.length)]]), scalar(state, 0.5)]),
        i === 1 ? null : flag,
      );
  }
  for (let i = 0; i < 4; i++) builder.output(`y${i}`, pool[pool.length - 1 - draw(Math.min(pool.length, 12))]);
  return { graph: builder.build(), inputs, states };
}

/** Whether y broadcasts to x's shape. */
function fits(x: Tensor, y: Tensor): boolean {
  const [s, t] = [x.shape, y.shape];
  return t.length <= s.length && t.every((d, i) => d === s[i + s.length - t.length]);
}
