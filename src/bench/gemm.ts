// dynamoe bench gemm: times one matmul that the compiler compiled, alternating with a measurement of the machine's
// peak. The peak is measured by compiled C: without a C compiler there is no comparison.
import { availableParallelism } from 'node:os';
import { Stream } from '../base/random.ts';
import { matmul } from '../graph/ops/matmul/matmul.ts';
import { median } from '../observe/quantile.ts';
import { compileGraph, loadProgram, traceGraph } from '../pipeline.ts';
import { ProgramExecutor } from '../run/program.ts';
import { node, openNative } from '../session/node.ts';
import type { DeviceName } from '../session/platform.ts';
import { table } from '../base/format.ts';

export interface GemmFlags {
  readonly size: number;
  readonly device: GemmDevice;
  readonly threads?: readonly number[];
  readonly rounds: number;
  readonly json?: boolean;
}

/** Devices with kernels: all but the reference. */
export const GEMM_DEVICES = ['auto', 'native', 'wasm'] as const satisfies readonly DeviceName[];
type GemmDevice = (typeof GEMM_DEVICES)[number];

interface GemmResult {
  readonly device: string;
  readonly size: number;
  readonly threads: number;
  /** GFLOP/s: medians and best values. */
  readonly useful_gflops: number;
  readonly useful_gflops_best: number;
  /** null: there is no C compiler to measure it with. */
  readonly fma_peak_gflops: number | null;
  readonly fma_peak_gflops_best: number | null;
  readonly of_peak: number | null;
  readonly of_peak_best: number | null;
}

export async function benchGemm({ size, device, threads, rounds, json }: GemmFlags): Promise<void> {
  const results: GemmResult[] = [];
  for (const n of threads ?? [...new Set([1, availableParallelism()])]) {
    const result = await measure(size, device, n, rounds);
    results.push(result);
    if (json) process.stdout.write(`${JSON.stringify({ event: 'gemm', ...result })}\n`);
  }
  if (json) return;
  const g = (x: number | null): string => x?.toFixed(1) ?? '-',
    percent = (x: number | null): string => (x === null ? '-' : `${(100 * x).toFixed(1)}%`);
  process.stdout.write(
    `float32 ${size} x ${size} x ${size}, GFLOP/s; of peak: best to best, median to median\n${table(
      ['device', 'threads', 'gemm best', 'median', 'peak best', 'median', 'of peak', 'median'],
      results.map((r) => [
        r.device,
        String(r.threads),
        g(r.useful_gflops_best),
        g(r.useful_gflops),
        g(r.fma_peak_gflops_best),
        g(r.fma_peak_gflops),
        percent(r.of_peak_best),
        percent(r.of_peak),
      ]),
    )}\n`,
  );
}

async function measure(size: number, name: GemmDevice, threads: number, rounds: number): Promise<GemmResult> {
  const say = (line: string): void => {
    process.stderr.write(`dynamoe: ${line}\n`);
  };
  const device = await node.open(name, { threads, memory: node.freeMemory(), say }),
    executor = new ProgramExecutor(device);
  const native = await openNative(threads).catch(() => null);
  try {
    const type = { dtype: 'float32' as const, shape: [size, size] };
    const graph = traceGraph({ parameters: new Map(), paths: new Map() }, false, (t) => {
      t.output('c', matmul(t.state('a', type), t.state('b', type)));
    });
    for (const name of ['a', 'b']) {
      const stream = new Stream(0, name);
      executor.setState(
        name,
        type,
        Float32Array.from({ length: size * size }, (_, i) => 2 * stream.uniform(0, i) - 1),
      );
    }
    const { bound } = await loadProgram(executor, compileGraph(graph, executor.device.target));
    const timed = async (): Promise<number> => {
      const start = performance.now();
      await bound.run();
      return (performance.now() - start) / 1000;
    };
    const flops = 2 * size ** 3,
      gemm: number[] = [],
      peak: number[] = [];
    for (let i = 0; i < 3; i++) await timed();
    for (let round = 0; round < rounds; round++) {
      if (native) peak.push(await native.fmaPeak(0.1));
      const until = performance.now() + 150;
      do gemm.push(flops / (await timed()) / 1e9);
      while (performance.now() < until);
    }
    const best = Math.max(...gemm),
      top = native && Math.max(...peak),
      middle = native && median(peak);
    return {
      device: device.info.name,
      size,
      threads,
      useful_gflops: median(gemm),
      useful_gflops_best: best,
      fma_peak_gflops: middle,
      fma_peak_gflops_best: top,
      of_peak: middle && median(gemm) / middle,
      of_peak_best: top && best / top,
    };
  } finally {
    await executor.close();
    await native?.close();
  }
}
