// dynamoe bench gemm: one matmul through the whole compiler, against the machine's peak measured in turns with it.
import { availableParallelism } from 'node:os';
import { Stream } from '../base/random.ts';
import { NativeDevice } from '../device/native/native.ts';
import { matmul } from '../graph/ops/matmul.ts';
import { compileGraph, loadProgram, traceGraph } from '../pipeline.ts';
import { ProgramExecutor } from '../run/program.ts';
import { table } from './format.ts';

export interface GemmFlags { readonly size: number; readonly threads?: readonly number[]; readonly rounds: number; readonly json?: boolean }

interface GemmResult {
  readonly size: number;
  readonly threads: number;
  readonly gflops: number;
  readonly gflops_median: number;
  readonly peak: number;
  readonly peak_median: number;
  readonly of_peak: number;
  readonly of_peak_median: number;
}

export async function benchGemm({ size, threads, rounds, json }: GemmFlags): Promise<void> {
  const results: GemmResult[] = [];
  for (const n of threads ?? [...new Set([1, availableParallelism()])]) {
    const result = await measure(size, n, rounds);
    results.push(result);
    if (json) process.stdout.write(`${JSON.stringify({ event: 'gemm', ...result })}\n`);
  }
  if (json) return;
  const g = (x: number): string => x.toFixed(1), percent = (x: number): string => `${(100 * x).toFixed(1)}%`;
  process.stdout.write(`float32 ${size} x ${size} x ${size}, GFLOP/s; of peak: best to best, median to median\n${table(
    ['threads', 'gemm best', 'median', 'peak best', 'median', 'of peak', 'median'],
    results.map((r) => [String(r.threads), g(r.gflops), g(r.gflops_median), g(r.peak), g(r.peak_median), percent(r.of_peak), percent(r.of_peak_median)]))}\n`);
}

async function measure(size: number, threads: number, rounds: number): Promise<GemmResult> {
  const device = await NativeDevice.open(threads), executor = new ProgramExecutor(device);
  try {
    const type = { dtype: 'float32' as const, shape: [size, size] };
    const graph = traceGraph({ parameters: new Map(), paths: new Map() }, false, (t) => {
      t.output('c', matmul(t.state('a', type), t.state('b', type)));
    });
    for (const name of ['a', 'b']) {
      const stream = new Stream(0, name);
      executor.setState(name, type, Float32Array.from({ length: size * size }, (_, i) => 2 * stream.uniform(0, i) - 1));
    }
    const { bound } = await loadProgram(executor, compileGraph(graph));
    const timed = async (): Promise<number> => {
      const start = performance.now();
      await device.run(bound);
      return (performance.now() - start) / 1000;
    };
    const flops = 2 * size ** 3, gemm: number[] = [], peak: number[] = [];
    for (let i = 0; i < 3; i++) await timed();
    for (let round = 0; round < rounds; round++) {
      peak.push(await device.fmaPeak(0.1));
      const until = performance.now() + 150;
      do gemm.push(flops / (await timed()) / 1e9); while (performance.now() < until);
    }
    const best = Math.max(...gemm), top = Math.max(...peak);
    return {
      size, threads, gflops: best, gflops_median: median(gemm), peak: top, peak_median: median(peak),
      of_peak: best / top, of_peak_median: median(gemm) / median(peak),
    };
  } finally {
    executor.close();
  }
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b), half = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}
