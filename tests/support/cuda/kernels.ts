// The kernels of a GPU whose text is compiled: those of the conformance cases, and those of whole models.
import { join } from 'node:path';
import fc from 'fast-check';
import { hostTensor, type Batch } from '../../../src/base/tensor.ts';
import type { KernelSource } from '../../../src/device/device.ts';
import type { Graph } from '../../../src/graph/graph.ts';
import { compileGraph } from '../../../src/pipeline.ts';
import { GPU } from '../../../src/schedule/gpu.ts';
import { configure } from '../../../src/train/configure.ts';
import { exampleBatch } from '../../../src/train/example-batch.ts';
import { openSession } from '../../../src/train/open.ts';
import { all } from '../../conformance/cases/index.ts';
import { buildCase } from '../../conformance/harness.ts';

/** Each once. */
const kernelsOf = (graphs: readonly Graph[]): KernelSource[] => [
  ...new Map(graphs.flatMap((g) => compileGraph(g, GPU).kernels.map((k) => [k.key, k] as const))).values(),
];

/** cases: how many of each family. */
export const conformanceKernels = (seed: number, cases: number): KernelSource[] =>
  kernelsOf(all.flatMap((f) => fc.sample(f.cases, { seed, numRuns: cases }).map((c) => buildCase(c).graph)));

const MNIST = join(import.meta.dirname, '../../../examples/mnist.ts');

/** Of a training step and of an evaluation. */
async function graphsOf(config: string | undefined, batch: Batch | null): Promise<Graph[]> {
  const { experiment } = await configure(config, {}),
    session = await openSession(experiment, { device: 'reference', memory: Infinity, say: () => undefined }),
    given = batch ?? (await exampleBatch(experiment, true)),
    graphs = [session.trainGraph(given), session.evaluationGraph(given)];
  await session.close();
  return graphs;
}

/** The default language model, and the classifier of digits. */
export async function modelKernels(): Promise<{ readonly name: string; readonly kernels: KernelSource[] }[]> {
  const digits = {
    x: hostTensor('float32', [64, 784], new Float32Array(64 * 784)),
    y: hostTensor('int32', [64], new Int32Array(64)),
  };
  return [
    { name: 'the default language model', kernels: kernelsOf(await graphsOf(undefined, null)) },
    { name: 'the classifier of digits', kernels: kernelsOf(await graphsOf(MNIST, digits)) },
  ];
}
