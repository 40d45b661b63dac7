// The conformance harness checks a case (inputs, and what is built from them) in three ways. In the reference:
// gradients, and gradients of a function of gradients, against finite differences in float64. On a device: results and
// gradients against the reference, where rows past a count and all memory before the run hold NaN. On several devices:
// equal bits. It uses nothing of Node, so pages run it too.
import { numbersOf } from '../../src/base/convert.ts';
import { hostArray, isFloat, type DType, type TypedArray } from '../../src/base/dtype.ts';
import { isHalf, toHalf } from '../../src/base/half.ts';
import { Stream } from '../../src/base/random.ts';
import { elements, sizes, type Dim, type TensorType } from '../../src/base/shape.ts';
import type { HostTensor } from '../../src/base/tensor.ts';
import type { Device, KernelSource } from '../../src/device/device.ts';
import { gradients } from '../../src/grad/differentiate.ts';
import { GraphBuilder } from '../../src/graph/builder.ts';
import type { Graph, ValueId } from '../../src/graph/graph.ts';
import { ops } from '../../src/graph/ops/index.ts';
import { add } from '../../src/graph/ops/elementwise/add.ts';
import { expand } from '../../src/graph/ops/shape/expand.ts';
import { mul } from '../../src/graph/ops/elementwise/mul.ts';
import { sum } from '../../src/graph/ops/reduce/sum.ts';
import { printGraph } from '../../src/graph/print.ts';
import { scalar, type Tensor } from '../../src/graph/tensor.ts';
import { verifyGraph } from '../../src/graph/verify.ts';
import { compileGraph, loadProgram, type Compiled } from '../../src/pipeline.ts';
import { ProgramExecutor } from '../../src/run/program.ts';
import { evaluate, liveElements, type Values } from '../../src/run/reference.ts';
import type { Target } from '../../src/schedule/target.ts';
import { PoisonedDevice } from './poisoned.ts';

/**
 * A dimension that varies at run time names the input that holds its count (int32 []) or its offsets (int32 [segments
 * + 1]). That input must come earlier in the list.
 */
export type DimSpec =
  | number
  | { readonly bound: number; readonly count: string }
  | { readonly bound: number; readonly segments: number; readonly offsets: string };

export interface InputSpec {
  readonly name: string;
  readonly dtype?: DType; // float32
  readonly shape: readonly DimSpec[];
  /** All values, for counts for example. */
  readonly data?: readonly number[];
  /**
   * One value, from a uniform number in [0, 1) and a normal one. Default: the normal number for floats, a whole number
   * from 0 to 2 for other dtypes.
   */
  value?(random: { readonly uniform: number; readonly normal: number }, index: number): number;
  /** Whether its gradient is checked. Default: true for floats. */
  readonly grad?: boolean;
}

export interface Case {
  readonly inputs: readonly InputSpec[];
  build(inputs: readonly Tensor[]): Tensor | readonly Tensor[];
  /**
   * Distance of these values to the nearest point where a gradient jumps or a decision is a tie. If it is below 1e-3,
   * other values are drawn.
   */
  kink?(values: readonly Float64Array[]): number;
  /** Indices of outputs whose gradient is not checked, such as decisions and statistics. */
  readonly withoutGradient?: readonly number[];
}

const STEP = 2e-4; // of the finite differences; two steps must stay below MARGIN
const MARGIN = 1e-3;
// The budget for the finite differences of one input, by order: the number of computed elements plus NODE for each
// node. It determines how many elements of the input are sampled (2 to 48).
const BUDGET = { 1: 1e6, 2: 5e5 },
  NODE = 100;

function must(ok: boolean, message: () => string): asserts ok {
  if (!ok) throw new Error(message());
}

interface Built {
  readonly graph: Graph; // outputs: out/i, and grad/NAME if there is a loss
  readonly specs: readonly InputSpec[]; // the case's inputs, then the weights of the loss
  readonly loss: ValueId | null;
}

/**
 * The graph of a case: its outputs, a loss (their randomly weighted sum), and the gradients of the loss to the inputs.
 * With order 2 the loss also contains the squares of the outputs, and a weighted sum of its gradients is
 * differentiated again.
 */
export function buildCase(c: Case, order: 1 | 2 = 1): Built {
  const b = new GraphBuilder(ops),
    ids = new Map<string, number>();
  const tensors = c.inputs.map((spec) => {
    const made = b.input('input', spec.name, {
      dtype: spec.dtype ?? 'float32',
      shape: spec.shape.map((d) => dimOf(d, ids)),
    });
    ids.set(spec.name, made.id);
    return made;
  });
  const built = c.build(tensors),
    outputs = Array.isArray(built) ? (built as readonly Tensor[]) : [built as Tensor];
  outputs.forEach((o, i) => b.output(`out/${i}`, o));
  const specs = [...c.inputs],
    wanted = tensors.filter((t, i) => isFloat(t.dtype) && c.inputs[i].grad !== false);
  const parts = outputs
    .filter((o, i) => isFloat(o.dtype) && !c.withoutGradient?.includes(i))
    .map((o, i) => {
      const { part, weight } = weightedSum(b, order === 1 ? o : add(o, mul(o, o)), `weight/${i}`);
      specs.push(weight);
      return part;
    });
  if (parts.length === 0 || wanted.length === 0)
    return { graph: verifyGraph(b.build(), ops, 'case'), specs, loss: null };
  let loss = parts.reduce((x, y) => add(x, y));
  if (order === 2) {
    const products = gradients(b, loss, wanted).flatMap((g, i) => {
      if (!g) return [];
      const { part, weight } = weightedSum(b, g, `second/${i}`);
      specs.push(weight);
      return [part];
    });
    if (products.length === 0) return { graph: verifyGraph(b.build(), ops, 'case'), specs, loss: null };
    loss = products.reduce((x, y) => add(x, y));
  }
  gradients(b, loss, wanted).forEach((g, i) => {
    const name = b.inputs.find((n) => n.value === wanted[i].id)?.name ?? '';
    b.output(`grad/${name}`, g ?? mul(wanted[i], scalar(wanted[i], 0)));
  });
  return { graph: verifyGraph(b.build(), ops, 'case'), specs, loss: loss.id };
}

/**
 * The sum of the elements of o, each multiplied by a weight. If the rows of o are counted by a value that the graph
 * computes, there is one weight for each column, and squares are added, so that the rows differ.
 */
function weightedSum(b: GraphBuilder, o: Tensor, name: string): { part: Tensor; weight: InputSpec } {
  const sizesAreInputs = o.shape.every(
    (d) => typeof d === 'number' || b.inputs.some((i) => i.value === (d.kind === 'bounded' ? d.count : d.offsets)),
  );
  const shape = sizesAreInputs ? o.shape : o.shape.slice(1);
  const w = b.input('input', name, { dtype: o.dtype, shape });
  const part = sizesAreInputs ? mul(o, w) : mul(add(o, mul(o, o)), expand(w, o, [0]));
  return { part: sum(part), weight: { name, dtype: o.dtype, shape: sizes(shape), grad: false } };
}

function dimOf(d: DimSpec, ids: ReadonlyMap<string, number>): Dim {
  if (typeof d === 'number') return d;
  const id = ids.get('count' in d ? d.count : d.offsets);
  must(id !== undefined, () => 'an input that holds a count must come before the input whose rows it counts');
  return 'count' in d
    ? { kind: 'bounded', bound: d.bound, count: id }
    : { kind: 'segmented', bound: d.bound, segments: d.segments, offsets: id };
}

/** Random values of all inputs, representable in their dtypes and away from kinks. Equal seeds give equal values. */
export function drawInputs(c: Case, { graph, specs }: Built, seed: number): Float64Array[] {
  for (let attempt = 0; attempt < 200; attempt++) {
    const values = specs.map((spec) => {
      const { type } = inputOf(graph, spec.name),
        random = new Stream(seed, spec.name);
      const pick =
        spec.value ??
        ((r: { uniform: number; normal: number }): number =>
          isFloat(type.dtype) ? r.normal : Math.floor(r.uniform * 3));
      const raw =
        spec.data ??
        Array.from({ length: elements(type.shape) }, (_, i) =>
          pick({ uniform: random.uniform(2 * attempt, i), normal: random.normal(2 * attempt + 1, i) }, i),
        );
      const data = Float64Array.from(raw, (v) => (type.dtype === 'bool' ? Number(Math.trunc(v) !== 0) : v));
      return Float64Array.from(numbersOf({ dtype: type.dtype, data: hostValues(type.dtype, data) }));
    });
    if ((c.kink?.(values.slice(0, c.inputs.length)) ?? 1) >= MARGIN) return poisonRows(graph, specs, values);
  }
  throw new Error('every draw of this case lies near a kink');
}

/** Fills the rows past a count with NaN (with the largest int32 for integers). */
function poisonRows(graph: Graph, specs: readonly InputSpec[], drawn: readonly Float64Array[]): Float64Array[] {
  const byId: Float64Array[] = [];
  specs.forEach((s, i) => {
    byId[inputOf(graph, s.name).value] = drawn[i];
  });
  return specs.map((s, i) => {
    const { type } = inputOf(graph, s.name),
      live = liveElements(type, byId);
    const poison = isFloat(type.dtype) ? NaN : type.dtype === 'bool' ? 1 : 0x7fffffff;
    return drawn[i].slice().fill(poison, live);
  });
}

function inputOf(graph: Graph, name: string): { value: ValueId; type: TensorType } {
  const input = graph.inputs.find((i) => i.name === name && i.kind === 'input');
  must(input !== undefined, () => `no input ${name}`);
  return { value: input.value, type: graph.types[input.value] };
}

const reference = (built: Built, inputs: readonly Float64Array[]): Values =>
  evaluate(built.graph, ops, ({ name }) => inputs[built.specs.findIndex((s) => s.name === name)]);

/** max|a - b| / max(1e-3, max|b|). Two NaN, or two equal infinities, differ by 0. */
export function errorOf(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let worst = 0,
    scale = 1e-3;
  for (let i = 0; i < b.length; i++) {
    if (Object.is(a[i], b[i]) || a[i] === b[i]) {
      if (Number.isFinite(b[i])) scale = Math.max(scale, Math.abs(b[i]));
      continue;
    }
    const d = Math.abs(a[i] - b[i]);
    if (!Number.isFinite(d)) return Infinity;
    worst = Math.max(worst, d);
    scale = Math.max(scale, Math.abs(b[i]));
  }
  return worst / scale;
}

/** Compares gradients in the reference with five-point finite differences. */
export function checkGradients(c: Case, seed: number, order: 1 | 2 = 1): void {
  const built = buildCase(c, order);
  if (built.loss === null) return;
  const loss = built.loss,
    inputs = drawInputs(c, built, seed),
    values = reference(built, inputs);
  // For the differences, only the nodes up to the loss are computed again.
  const end = built.graph.nodes.findIndex((n) => n.outputs.includes(loss)) + 1;
  const forward: Built = { ...built, graph: { ...built.graph, nodes: built.graph.nodes.slice(0, end), outputs: [] } };
  // The budget determines how many elements are checked: few for a large graph. A limit of time would make slow
  // machines check other elements than fast ones.
  const work = forward.graph.nodes.reduce(
      (n, node) => n + NODE + node.outputs.reduce((m, v) => m + values[v].length, 0),
      0,
    ),
    samples = BUDGET[order] / work;
  // The rounding error of a difference of two losses grows with the size of the losses.
  const size = Number.isFinite(values[loss][0]) ? Math.abs(values[loss][0]) : 0;
  for (const o of built.graph.outputs.filter((g) => g.name.startsWith('grad/'))) {
    const at = built.specs.findIndex((s) => `grad/${s.name}` === o.name),
      x = inputs[at];
    const live = liveElements(inputOf(built.graph, built.specs[at].name).type, values);
    const picked = new Stream(seed, o.name).permutation(0, live).slice(0, Math.max(2, Math.min(48, samples)));
    const differences = Array.from(picked, (i) => {
      const old = x[i],
        f = (h: number): number => {
          x[i] = old + h;
          return reference(forward, inputs)[loss][0];
        };
      const d = (8 * (f(STEP) - f(-STEP)) - (f(2 * STEP) - f(-2 * STEP))) / (12 * STEP);
      x[i] = old;
      return d;
    });
    const got = Array.from(picked, (i) => values[o.value][i]);
    const scale = Math.max(1e-3, ...differences.map(Math.abs)),
      rounding = (8 * size * 2 ** -50) / (12 * STEP);
    const error = errorOf(got, differences);
    must(
      error < 1e-6 + rounding / scale,
      () =>
        `${o.name}: error ${error} against finite differences\n` +
        `  got      ${show(got)}\n  expected ${show(differences)}\n${printGraph(built.graph)}`,
    );
  }
}

/** The result of a device for one output of a case. */
export interface Result {
  readonly graph: Graph;
  readonly name: string;
  readonly type: TensorType;
  readonly got: TypedArray;
  readonly expected: Float64Array;
}

/** Two graphs, one with all outputs and one with the results alone, since kernels are grouped differently in them. */
function variantsOf({ graph }: Built): readonly Graph[] {
  const results = graph.outputs.filter((o) => o.name.startsWith('out/'));
  return results.length < graph.outputs.length ? [graph, { ...graph, outputs: results }] : [graph];
}

/** The kernels of a case, so that those of many cases can be compiled together. */
export const kernelsOf = (c: Case, target: Target): readonly KernelSource[] =>
  variantsOf(buildCase(c)).flatMap((g) => compileGraph(g, target).kernels);

/** The results and gradients of a case on a device, without the rows past a count. */
export async function resultsOf(c: Case, seed: number, device: Device): Promise<readonly Result[]> {
  const built = buildCase(c),
    inputs = drawInputs(c, built, seed);
  return runCase(built, inputs, reference(built, inputs), device);
}

/** Runs a case on a device and returns results and gradients, without the rows past a count. */
async function runCase(
  built: Built,
  inputs: readonly Float64Array[],
  values: Values,
  device: Device,
): Promise<Result[]> {
  const variants = variantsOf(built),
    compiled = variants.map((g) => compileGraph(g, device.target)),
    all: Result[] = [];
  await device.compile(compiled.flatMap((v) => v.kernels));
  for (const [i, v] of variants.entries()) all.push(...(await runOn(v, compiled[i])));
  return all;

  async function runOn(g: Graph, program: Compiled): Promise<Result[]> {
    const executor = new ProgramExecutor(new PoisonedDevice(device));
    try {
      const loaded = await loadProgram(executor, program);
      const data: Record<string, TypedArray> = {};
      built.specs.forEach((s, i) => {
        const host = hostArray(inputOf(g, s.name).type.dtype, inputs[i].length);
        host.set(inputs[i]);
        data[s.name] = host;
      });
      const out = await executor.run(loaded, data);
      return g.outputs.map(({ name, value }) => {
        const type = g.types[value],
          live = liveElements(type, values);
        return {
          graph: g,
          name,
          type,
          got: out[name].data.subarray(0, live),
          expected: values[value].subarray(0, live),
        };
      });
    } finally {
      await executor.close();
    }
  }
}

/**
 * Compares results and gradients on each device with the reference. The devices in `sameBits` must also have equal
 * bits, except that any NaN equals any NaN.
 */
export async function checkDevices(
  c: Case,
  seed: number,
  devices: ReadonlyMap<string, Device>,
  sameBits: ReadonlySet<string> = new Set(),
): Promise<void> {
  const built = buildCase(c),
    inputs = drawInputs(c, built, seed),
    values = reference(built, inputs);
  let first: { readonly device: string; readonly results: readonly Result[] } | null = null;
  for (const [device, d] of devices) {
    const results = await runCase(built, inputs, values, d);
    for (const { graph, name, type, got, expected } of results) {
      const exact = !isFloat(type.dtype),
        error = errorOf(got, expected);
      must(
        exact ? error === 0 : error < 1e-4,
        () =>
          `${name} on ${device}: error ${error}\n` +
          `  got      ${show(got)}\n  expected ${show(expected)}\n${printGraph(graph)}`,
      );
    }
    if (!sameBits.has(device)) continue;
    first ??= { device, results };
    const { results: wanted, device: other } = first;
    results.forEach(({ graph, name, got }, i) => {
      const want = wanted[i].got,
        at = got.findIndex((x, j) => !Object.is(x, want[j]));
      must(
        at < 0,
        () =>
          `${name}[${at}]: ${got[at]} on ${device}, ${want[at]} on ${other}; of ${got.length}, ${
            Array.from(got).filter((x, j) => !Object.is(x, want[j])).length
          } differ\n${printGraph(graph)}`,
      );
    });
  }
}

/** A graph, and values of its inputs. */
export interface Feed {
  readonly name: string;
  readonly graph: Graph;
  readonly data: Readonly<Record<string, Float64Array>>;
}

interface Named {
  readonly name: string;
  readonly c: Case;
}
const feedsOf = (cases: readonly Named[], seed: number): Feed[] =>
  cases.map(({ name, c }, i) => {
    const built = buildCase(c),
      inputs = drawInputs(c, built, seed + i);
    return { name, graph: built.graph, data: Object.fromEntries(built.specs.map((s, j) => [s.name, inputs[j]])) };
  });

/**
 * Compares several cases on a device with the reference: results, and gradients if there are any. They run in one
 * program, which saves compilations.
 */
export const compareWithReference = (
  cases: readonly Named[],
  seed: number,
  device: Device,
  tolerance: number,
): Promise<void> => compareGraphsWithReference(feedsOf(cases, seed), device, () => tolerance);

/** Compares several cases on two devices: the bits must be equal, except that any NaN equals any NaN. */
export async function compareDevices(
  cases: readonly Named[],
  seed: number,
  first: Device,
  second: Device,
): Promise<void> {
  const feeds = feedsOf(cases, seed),
    results = [await runGraphs(feeds, first), await runGraphs(feeds, second)];
  feeds.forEach(({ name, graph, data }, i) => {
    const values = evaluate(graph, ops, (input) => data[input.name]);
    for (const o of graph.outputs) {
      const live = liveElements(graph.types[o.value], values),
        [a, b] = results.map((out) => out[`${i}/${o.name}`].data.subarray(0, live)),
        at = a.findIndex((x, j) => !Object.is(x, b[j]));
      must(
        at < 0,
        () =>
          `${name}, ${o.name}[${at}]: ${a[at]} and ${b[at]}\n  from     ${Object.entries(data)
            .map(([n, v]) => `${n}: ${show(v)}`)
            .join('\n           ')}\n${printGraph(graph)}`,
      );
    }
  });
}

/**
 * Compares graphs, which run in one program on a device, with the reference. With tolerance 0, and for integers and
 * bools, values must be equal.
 */
export async function compareGraphsWithReference(
  feeds: readonly Feed[],
  device: Device,
  tolerance: (dtype: DType) => number,
): Promise<void> {
  const out = await runGraphs(feeds, device);
  feeds.forEach(({ name, graph, data }, i) => {
    const values = evaluate(graph, ops, (input) => data[input.name]);
    for (const o of graph.outputs) {
      const type = graph.types[o.value],
        live = liveElements(type, values),
        host = out[`${i}/${o.name}`];
      const got = numbersOf(host).subarray(0, live),
        expected = values[o.value].subarray(0, live),
        error = errorOf(got, expected);
      must(
        error <= (isFloat(type.dtype) ? tolerance(type.dtype) : 0),
        () =>
          `${name}, ${o.name} (${type.dtype}): error ${error}\n` +
          `  got      ${show(got)}\n  expected ${show(expected)}\n  from     ${Object.entries(data)
            .map(([n, v]) => `${n}: ${show(v)}`)
            .join('\n           ')}\n${printGraph(graph)}`,
      );
    }
  });
}

async function runGraphs(feeds: readonly Feed[], device: Device): Promise<Record<string, HostTensor>> {
  const program = compileGraph(joinGraphs(feeds.map((f) => f.graph)), device.target);
  await device.compile(program.kernels);
  const executor = new ProgramExecutor(new PoisonedDevice(device));
  try {
    const loaded = await loadProgram(executor, program),
      given: Record<string, TypedArray> = {};
    feeds.forEach(({ graph, data }, i) => {
      for (const [name, values] of Object.entries(data))
        given[`${i}/${name}`] = hostValues(inputOf(graph, name).type.dtype, values);
    });
    return await executor.run(loaded, given);
  } finally {
    await executor.close();
  }
}

/**
 * Joins graphs into one. Values are renumbered, and names of inputs and outputs get the index of their graph as a
 * prefix.
 */
function joinGraphs(graphs: readonly Graph[]): Graph {
  const types: TensorType[] = [],
    inputs: Graph['inputs'][number][] = [],
    nodes: Graph['nodes'][number][] = [],
    outputs: Graph['outputs'][number][] = [];
  graphs.forEach((g, i) => {
    const base = types.length,
      dim = (d: Dim): Dim =>
        typeof d === 'number'
          ? d
          : d.kind === 'bounded'
            ? { ...d, count: d.count + base }
            : { ...d, offsets: d.offsets + base };
    types.push(...g.types.map((t) => ({ dtype: t.dtype, shape: t.shape.map(dim) })));
    inputs.push(...g.inputs.map((x) => ({ ...x, name: `${i}/${x.name}`, value: x.value + base })));
    nodes.push(
      ...g.nodes.map((n) => ({ ...n, inputs: n.inputs.map((v) => v + base), outputs: n.outputs.map((v) => v + base) })),
    );
    outputs.push(...g.outputs.map((o) => ({ name: `${i}/${o.name}`, value: o.value + base })));
  });
  return { types, inputs, nodes, outputs, updates: [] };
}

/** Numbers as the array that a device takes: 16-bit floats as their bits, other dtypes as typed arrays. */
function hostValues(dtype: DType, numbers: Float64Array): TypedArray {
  if (isHalf(dtype)) return toHalf(dtype, numbers);
  const host = hostArray(dtype, numbers.length);
  host.set(numbers);
  return host;
}

const show = (x: ArrayLike<number>): string =>
  Array.from(x)
    .slice(0, 12)
    .map((v) => v.toPrecision(7))
    .join(' ') + (x.length > 12 ? ` ... (${x.length})` : '');
