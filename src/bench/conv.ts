// dynamoe bench conv: times convolutions, their gradients, and a plain matrix product of the same size, alternating in
// one process.
import { availableParallelism } from 'node:os';
import { conv2d } from '../graph/ops/image/conv2d.ts';
import { matmul } from '../graph/ops/matmul/matmul.ts';
import { emit1, type Tensor } from '../graph/tensor.ts';
import { compileGraph, loadProgram, traceGraph } from '../pipeline.ts';
import { ProgramExecutor, type LoadedProgram } from '../run/program.ts';
import { node } from '../session/node.ts';
import { table } from '../base/format.ts';
import type { GemmFlags } from './gemm.ts';

export interface ConvFlags extends Pick<GemmFlags, 'device' | 'json'> {
  readonly threads?: number;
  readonly rounds: number;
}

/** 64 images of size x size; 3 x 3 windows with padding 1, which keep the size at stride 1. */
interface Layer {
  readonly size: number;
  readonly inputs: number;
  readonly outputs: number;
  readonly stride: number;
  readonly groups: number;
}

const IMAGES = 64;
const LAYERS: readonly Layer[] = [
  [28, 1, 16, 1, 1],
  [28, 16, 32, 1, 1],
  [32, 3, 32, 1, 1],
  [16, 64, 64, 1, 1],
  [16, 128, 128, 1, 1],
  [32, 32, 64, 2, 1],
  [16, 64, 64, 1, 4],
  [16, 64, 64, 1, 64],
].map(([size, inputs, outputs, stride, groups]) => ({ size, inputs, outputs, stride, groups }));

export async function benchConv({
  device: name,
  threads = availableParallelism(),
  rounds,
  json,
}: ConvFlags): Promise<void> {
  const say = (line: string): void => {
    process.stderr.write(`dynamoe: ${line}\n`);
  };
  const device = await node.open(name, { threads, memory: node.freeMemory(), say }),
    executor = new ProgramExecutor(device),
    rows: string[][] = [];
  try {
    for (const layer of LAYERS) {
      const { flops, works } = await programs(executor, layer),
        best: Record<string, number> = {};
      for (let round = 0; round < rounds; round++) {
        for (const [what, { bound }] of Object.entries(works)) {
          const start = performance.now();
          await bound.run();
          best[what] = Math.max(best[what] ?? 0, flops / (performance.now() - start) / 1e6);
        }
      }
      Object.values(works).forEach((w) => {
        executor.release(w);
      });
      const result = {
        event: 'conv',
        device: device.info.name,
        threads,
        ...layer,
        mflop: flops / 1e6,
        useful_gflops_best: best,
      };
      if (json) process.stdout.write(`${JSON.stringify(result)}\n`);
      const { size, inputs, outputs, stride, groups } = layer;
      rows.push([
        `${size} x ${size} x ${inputs}`,
        String(outputs),
        String(stride),
        String(groups),
        ...Object.values(best).map((g) => g.toFixed(1)),
      ]);
    }
  } finally {
    await executor.close();
  }
  if (json) return;
  process.stdout.write(
    `${device.info.name}, threads: ${threads}; ${IMAGES} images, 3 x 3 windows; best of ` +
      `${rounds}, useful GFLOP/s\n${table(
        ['image', 'outputs', 'stride', 'groups', 'conv2d', 'to images', 'to weights', 'matmul'],
        rows,
      )}\n`,
  );
}

/**
 * Programs for the convolution, its gradients with respect to images and weights, and a matrix product of the size of
 * the forward pass.
 */
async function programs(
  executor: ProgramExecutor,
  { size, inputs, outputs, stride, groups }: Layer,
): Promise<{ flops: number; works: Record<string, LoadedProgram> }> {
  const out = Math.floor((size - 1) / stride) + 1,
    rows = IMAGES * out * out,
    depth = (9 * inputs) / groups,
    x = [IMAGES, size, size, inputs],
    w = [3, 3, inputs / groups, outputs];
  const y = [IMAGES, out, out, outputs],
    attrs = {
      stride: [stride, stride],
      padding: [1, 1, 1, 1],
      dilation: [1, 1],
      ...(groups < inputs || groups === 1 ? { groups } : {}),
    };
  const op = 'groups' in attrs ? 'conv2d' : 'depthwise2d';
  const load = async (
    shapes: readonly (readonly number[])[],
    build: (t: Tensor[]) => Tensor,
  ): Promise<LoadedProgram> => {
    const graph = traceGraph({ parameters: new Map(), paths: new Map() }, false, (t) => {
      t.output(
        'y',
        build(
          shapes.map((shape) => {
            const type = { dtype: 'float32' as const, shape },
              length = shape.reduce((n, d) => n * d, 1),
              state = `bench/${shape.join('x')}`;
            executor.setState(
              state,
              type,
              Float32Array.from({ length }, (_, i) => ((i * 7919) % 1000) / 500 - 1),
            );
            return t.state(state, type);
          }),
        ),
      );
    });
    return loadProgram(executor, compileGraph(graph, executor.device.target));
  };
  return {
    flops: 2 * rows * depth * outputs,
    works: {
      conv2d: await load([x, w], ([a, b]) => conv2d(a, b, { stride, padding: 1, groups })),
      images: await load([y, w], (t) => emit1(`${op}GradInput`, t, { ...attrs, size: [size, size] })),
      weights: await load([x, y], (t) => emit1(`${op}GradWeight`, t, { ...attrs, taps: [3, 3] })),
      matmul: await load(
        [
          [rows, depth],
          [depth, outputs],
        ],
        ([a, b]) => matmul(a, b),
      ),
    },
  };
}
