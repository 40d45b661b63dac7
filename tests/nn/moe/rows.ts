// For tests: runs a layer over tokens whose number is fixed, counted, or counted by sample, and returns the same for
// each: rows that exist of its output and of the gradient for x, total, gradients of parameters, losses, statistics and
// states after the step. Rows past the count, and those that a mask leaves out, are NaN; so is new memory.
import type { TypedArray } from '../../../src/base/dtype.ts';
import { elements, type Dim } from '../../../src/base/shape.ts';
import type { Device } from '../../../src/device/device.ts';
import { gradients } from '../../../src/grad/differentiate.ts';
import type { Graph } from '../../../src/graph/graph.ts';
import { add } from '../../../src/graph/ops/elementwise/add.ts';
import { mul } from '../../../src/graph/ops/elementwise/mul.ts';
import { sum } from '../../../src/graph/ops/reduce/sum.ts';
import type { Tensor } from '../../../src/graph/tensor.ts';
import { compileGraph, loadProgram, traceGraph } from '../../../src/pipeline.ts';
import { ProgramExecutor } from '../../../src/run/program.ts';
import { nameParameters } from '../../../src/trace/module.ts';
import { call } from '../../../src/trace/trace.ts';
import { PoisonedDevice } from '../../conformance/poisoned.ts';
import { initialStates, normals, type Numbers } from './layer.ts';

/** Fixed: as many as the count. bounded: room for `bound`. offsets: of the samples' rows, the last is the count. */
export interface Tokens {
  readonly count: number;
  readonly bound?: number;
  readonly offsets?: readonly number[];
}

export interface RowsOptions {
  readonly training?: boolean;
  /** Whether each token takes part; absent: all do, and the layer gets no mask. */
  readonly mask?: readonly boolean[];
  /** Of each token: equal numbers give equal rows of x and of the weights of the total. Default: its position. */
  readonly names?: readonly number[];
  /** Whether the layer gets ids of the tokens (their names mod 9). */
  readonly ids?: boolean;
  readonly width?: number;
}

interface Layer {
  forward(x: Tensor, ids?: Tensor, mask?: Tensor): Tensor;
}

const WIDTH = 12;

export function rowsGraph(layer: Layer, tokens: Tokens, options: RowsOptions = {}): Graph {
  const { training = true, mask, ids = false, width = WIDTH } = options,
    named = nameParameters(layer);
  return traceGraph(named, training, (t) => {
    const dim = rowsDim(t, tokens),
      x = t.input('input', 'x', { dtype: 'float32', shape: [dim, width] }),
      weights = t.input('input', 'weights', { dtype: 'float32', shape: [dim, width] });
    const y = call(
      layer,
      x,
      ids ? t.input('input', 'ids', { dtype: 'int32', shape: [dim] }) : undefined,
      mask && t.input('input', 'mask', { dtype: 'bool', shape: [dim] }),
    );
    const total = t.losses.reduce((s, l) => add(s, mul(l.value, l.coefficient)), sum(sum(mul(y, weights), [0])));
    t.output('y', y);
    t.output('total', total);
    for (const l of t.losses) t.output(`aux:${l.name}`, l.value);
    for (const s of t.stats) t.output(`stat:${s.name}`, s.value);
    if (!training) return;
    const states = t.inputs.filter((i) => i.kind === 'state' && t.types[i.value].dtype === 'float32'),
      wanted = [x, ...states.map((s) => t.tensor(s.value))];
    gradients(t, total, wanted).forEach((g, i) => {
      if (g) t.output(`grad/${i === 0 ? 'x' : states[i - 1].name}`, g);
    });
  });
}

function rowsDim(
  t: { input(kind: 'input', name: string, type: { dtype: 'int32'; shape: number[] }): Tensor },
  { count, bound = count, offsets }: Tokens,
): Dim {
  if (offsets) {
    const shape = [offsets.length];
    return {
      kind: 'segmented',
      bound,
      segments: offsets.length - 1,
      offsets: t.input('input', 'offsets', { dtype: 'int32', shape }).id,
    };
  }
  if (bound === count) return count;
  return { kind: 'bounded', bound, count: t.input('input', 'count', { dtype: 'int32', shape: [] }).id };
}

/** The values of a graph's inputs. */
function inputsOf(
  graph: Graph,
  tokens: Tokens,
  { mask, names, width = WIDTH }: RowsOptions,
): Record<string, TypedArray> {
  const { count, bound = count, offsets = [] } = tokens,
    name = (r: number): number => names?.[r] ?? r,
    most = Math.max(bound, ...(names ?? [])) + 1,
    rows = (of: string): Float32Array => {
      const all = normals(of, most * width),
        out = new Float32Array(bound * width).fill(NaN);
      for (let r = 0; r < count; r++)
        if (of !== 'x' || mask?.[r] !== false) out.set(all.subarray(name(r) * width, (name(r) + 1) * width), r * width);
      return out;
    };
  const past = (r: number, value: number): number => (r < count && mask?.[r] !== false ? value : 0x7fffffff),
    each = Array.from({ length: bound }, (_, r) => r);
  const all: Record<string, TypedArray> = {
    x: rows('x'),
    weights: rows('weights'),
    ids: Int32Array.from(each, (r) => past(r, name(r) % 9)),
    mask: Uint8Array.from(each, (r) => (r < count ? Number(mask?.[r]) : 1)),
    offsets: Int32Array.from(offsets),
    count: Int32Array.of(count),
    seed: Uint32Array.of(11),
    step: Uint32Array.of(0),
  };
  return Object.fromEntries(graph.inputs.filter((i) => i.kind === 'input').map((i) => [i.name, all[i.name]]));
}

/** `device` stays open. */
export async function runRows(
  layer: Layer,
  device: Device,
  tokens: Tokens,
  options: RowsOptions = {},
): Promise<Numbers> {
  const graph = rowsGraph(layer, tokens, options),
    executor = new ProgramExecutor(new PoisonedDevice(device)),
    start = initialStates(layer, graph, {});
  try {
    for (const i of graph.inputs)
      if (i.kind === 'state') executor.setState(i.name, graph.types[i.value], start[i.name]);
    const loaded = await loadProgram(executor, compileGraph(graph, device.target)),
      found = await executor.run(loaded, inputsOf(graph, tokens, options));
    const live = (name: string, data: TypedArray): number[] => {
      const { shape } = graph.types[graph.outputs.find((o) => o.name === name)?.value ?? -1],
        own = name === 'y' || name === 'grad/x';
      return Array.from(data.subarray(0, own ? tokens.count * elements(shape.slice(1)) : data.length), Number);
    };
    return {
      ...Object.fromEntries(Object.entries(found).map(([name, t]) => [name, live(name, t.data)])),
      ...Object.fromEntries(
        graph.updates.map(({ state }) => {
          const name = graph.inputs.find((i) => i.value === state)?.name ?? '';
          return [`after:${name}`, Array.from(executor.peekState(name).data, Number)];
        }),
      ),
    };
  } finally {
    await executor.close();
  }
}
