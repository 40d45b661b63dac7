// For tests: runs a layer on one device, and returns its output, the gradients of total (a weighted sum of its output,
// plus its losses), its statistics, and states after the step.
import type { TypedArray } from '../../../src/base/dtype.ts';
import { hostArray } from '../../../src/base/dtype.ts';
import { Stream } from '../../../src/base/random.ts';
import { elements, sizes } from '../../../src/base/shape.ts';
import { NativeDevice } from '../../../src/device/native/native.ts';
import { WasmDevice } from '../../../src/device/wasm/wasm.ts';
import { findToolchain } from '../../../src/device/native/toolchain.ts';
import { differentiate } from '../../../src/grad/differentiate.ts';
import { add } from '../../../src/graph/ops/elementwise/add.ts';
import { ops } from '../../../src/graph/ops/index.ts';
import { mul } from '../../../src/graph/ops/elementwise/mul.ts';
import { sum } from '../../../src/graph/ops/reduce/sum.ts';
import type { Graph } from '../../../src/graph/graph.ts';
import type { Tensor } from '../../../src/graph/tensor.ts';
import { compileGraph, loadProgram, traceGraph } from '../../../src/pipeline.ts';
import { ProgramExecutor } from '../../../src/run/program.ts';
import { ReferenceExecutor } from '../../../src/run/reference.ts';
import { nameParameters } from '../../../src/trace/module.ts';
import { initialValue } from '../../../src/trace/parameter.ts';
import { call } from '../../../src/trace/trace.ts';

export interface Layer {
  forward(x: Tensor, ids?: Tensor): Tensor;
}
export type DeviceName = 'reference' | 'native' | 'wasm';
export type Numbers = Record<string, number[]>;
export interface Options {
  readonly device?: DeviceName;
  readonly training?: boolean;
  readonly values?: Readonly<Record<string, TypedArray>>;
  readonly ids?: Int32Array;
  readonly step?: number;
}

/** Names of the compiled devices that can run here. */
export const devices: readonly DeviceName[] = (await findToolchain()) ? ['native', 'wasm'] : ['wasm'];
export const compiledDevice: DeviceName = devices[0];

export const normals = (name: string, n: number, scale = 1): Float32Array => {
  const s = new Stream(5, name);
  return Float32Array.from({ length: n }, (_, i) => scale * s.normal(0, i));
};

/**
 * The graph of a layer for x, which is a state so that it has a gradient. Outputs: y, total, grad/NAME, aux:NAME,
 * stat:NAME.
 */
export function layerGraph(layer: Layer, x: readonly number[], { training = true, ids }: Options = {}): Graph {
  const named = nameParameters(layer);
  const forward = traceGraph(named, training, (t) => {
    const input = t.state('x', { dtype: 'float32', shape: x }),
      own = ids && t.constant({ dtype: 'int32', shape: [ids.length] }, ids);
    const y = call(layer, input, own),
      shape = sizes(y.shape);
    const part = sum(mul(y, t.constant({ dtype: 'float32', shape }, normals('part', elements(shape)))));
    t.output('y', y);
    t.output(
      'total',
      t.losses.reduce((s, l) => add(s, mul(l.value, l.coefficient)), part),
    );
    for (const l of t.losses) t.output(`aux:${l.name}`, l.value);
    for (const s of t.stats) t.output(`stat:${s.name}`, s.value);
  });
  if (!training) return forward;
  return differentiate(
    forward,
    ops,
    'total',
    forward.inputs.filter((i) => i.kind === 'state' && forward.types[i.value].dtype === 'float32').map((i) => i.name),
  );
}

/**
 * Values of all states before the step: random x, initial parameters, 0 for other states. `values` replaces them by
 * name.
 */
export function initialStates(layer: Layer, graph: Graph, { values = {} }: Options): Record<string, TypedArray> {
  const { parameters } = nameParameters(layer);
  return Object.fromEntries(
    graph.inputs
      .filter((i) => i.kind === 'state')
      .map(({ name, value }) => {
        const type = graph.types[value],
          p = parameters.get(name),
          own = values[name];
        return [
          name,
          own ??
            (p
              ? initialValue(p, name, 3)
              : name === 'x'
                ? normals('x', elements(type.shape))
                : hostArray(type.dtype, elements(type.shape))),
        ];
      }),
  );
}

export async function runLayer(layer: Layer, x: readonly number[], options: Options = {}): Promise<Numbers> {
  const { device = 'reference', step = 0 } = options,
    graph = layerGraph(layer, x, options);
  const inputs = { seed: Uint32Array.of(11), step: Uint32Array.of(step) },
    start = initialStates(layer, graph, options);
  const numbers = (found: Record<string, { data: TypedArray }>, states: (name: string) => TypedArray): Numbers => ({
    ...Object.fromEntries(Object.entries(found).map(([name, t]) => [name, Array.from(t.data)])),
    ...Object.fromEntries(
      graph.updates.map(({ state }) => {
        const name = graph.inputs.find((i) => i.value === state)?.name ?? '';
        return [`after:${name}`, Array.from(states(name))];
      }),
    ),
  });
  if (device === 'reference') {
    const executor = new ReferenceExecutor();
    for (const i of graph.inputs)
      if (i.kind === 'state') executor.setState(i.name, graph.types[i.value], start[i.name]);
    return numbers(await executor.run(executor.load(graph), inputs), (name) => executor.peekState(name).data);
  }
  const executor = new ProgramExecutor(device === 'native' ? await NativeDevice.open(2) : await WasmDevice.open(2));
  try {
    for (const i of graph.inputs)
      if (i.kind === 'state') executor.setState(i.name, graph.types[i.value], start[i.name]);
    const loaded = await loadProgram(executor, compileGraph(graph, executor.device.target));
    return numbers(await executor.run(loaded, inputs), (name) => executor.peekState(name).data);
  } finally {
    await executor.close();
  }
}

/** The largest difference divided by the largest absolute value of b (at least 1e-3). */
export function difference(a: readonly number[], b: readonly number[]): number {
  if (a.length !== b.length || [...a, ...b].some((v) => !Number.isFinite(v))) return Infinity;
  return Math.max(0, ...a.map((v, i) => Math.abs(v - b[i]))) / Math.max(1e-3, ...b.map(Math.abs));
}
