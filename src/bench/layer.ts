// dynamoe bench layer: measures speed and memory of one mixture-of-experts layer, and the peak of fused multiply-adds
// in the same process. Its JSON output is a LayerResult; docs/measurements.md explains the fields.
import { availableParallelism } from 'node:os';
import { openNative } from '../session/node.ts';
import type { DeviceName, Precision } from '../session/platform.ts';
import { median } from '../observe/quantile.ts';
import { bytes, count } from '../base/format.ts';
import { kernelTable, machineLimits, type KernelTime, type Limits } from './kernel-times.ts';
import { LayerBench, ProductsBench, usefulFlops, type LayerStep, type LayerWork } from './layer-work.ts';
import { resident, startPeak } from './resident.ts';

export interface LayerFlags {
  readonly tokens: number;
  readonly dModel: number;
  readonly dFf: number;
  readonly experts: number;
  readonly topK: number;
  readonly capacityFactor: LayerWork['capacity'];
  readonly overflow?: LayerWork['overflow'];
  readonly dispatch: LayerWork['dispatch'];
  readonly skew: number;
  readonly activation: LayerWork['activation'];
  readonly optimizer: LayerWork['optimizer'];
  readonly eager?: boolean;
  readonly pass: LayerWork['pass'];
  readonly precision?: Precision;
  readonly recompute?: boolean;
  readonly chunks?: number;
  readonly steps: number;
  readonly device: DeviceName;
  readonly threads?: number;
  readonly products?: boolean;
  readonly profile?: boolean;
  readonly json?: boolean;
}

export interface Spread {
  readonly min: number;
  readonly median: number;
  readonly max: number;
}

export interface LayerResult extends LayerWork {
  readonly event: 'layer';
  readonly device: string;
  readonly threads: number;
  readonly steps: number;
  readonly tokens_per_s: number;
  readonly step_ms: Spread;
  /** GFLOP/s: useful FLOPs of a step divided by its median time. */
  readonly useful_gflops: number;
  /**
   * Peak GFLOP/s of fused multiply-adds on the same number of threads: median of measurements before, between and
   * after the steps; null without a C compiler.
   */
  readonly fma_peak_gflops: number | null;
  /**
   * planned: states, intermediate values, inputs and outputs. rss: peak resident memory of the process, minus what it
   * had when its libraries were loaded and no parameter existed.
   */
  readonly peak_bytes: { readonly planned: number; readonly rss: number };
  readonly compile_ms: number;
  /**
   * With --products: milliseconds of the layer's matrix products alone, with equal loads, alternating with its steps.
   */
  readonly products_ms?: Spread;
  /** With --profile. */
  readonly kernels?: readonly KernelTime[];
  readonly limits?: Limits | null;
  readonly loss: number;
  /** Number of tokens of each expert in the last step. */
  readonly load: readonly number[];
  /** Share of the choices that were dropped. */
  readonly dropped: number;
}

const WARM_UP = 3;

export const spread = (values: readonly number[]): Spread => ({
  min: Math.min(...values),
  median: median(values),
  max: Math.max(...values),
});

export function workOf({
  tokens,
  dModel,
  dFf,
  experts,
  topK,
  capacityFactor: capacity,
  overflow = 'drop',
  dispatch,
  skew,
  activation,
  optimizer,
  eager = false,
  pass,
  precision,
  recompute,
  chunks,
}: LayerFlags): LayerWork {
  return {
    tokens,
    dModel,
    dFf,
    experts,
    topK,
    capacity,
    overflow,
    dispatch,
    skew,
    activation,
    optimizer,
    eager,
    pass,
    ...(precision !== undefined && { precision }),
    ...(recompute !== undefined && { recompute }),
    ...(chunks !== undefined && { chunks }),
  };
}

export async function benchLayer(flags: LayerFlags): Promise<void> {
  const result = await measureLayer(workOf(flags), flags);
  process.stdout.write(flags.json ? `${JSON.stringify(result)}\n` : `${describe(result)}\n`);
}

export async function measureLayer(
  work: LayerWork,
  {
    steps,
    device,
    threads = availableParallelism(),
    products,
    profile,
  }: Pick<LayerFlags, 'steps' | 'device' | 'threads' | 'products' | 'profile'>,
): Promise<LayerResult> {
  const say = (line: string): void => {
    process.stderr.write(`dynamoe: ${line}\n`);
  };
  const native = await openNative(threads).catch(() => null),
    peaks: number[] = [],
    done: LayerStep[] = [];
  const peak = async (): Promise<void> => {
    if (native) peaks.push(await native.fmaPeak(0.1));
  };
  let start = 0;
  try {
    const layer = await LayerBench.open(work, { device, threads, say }, () => {
      start = startPeak();
    });
    const alone = products ? await ProductsBench.open(work, { device, threads, say }) : null,
      alone_ms: number[] = [];
    try {
      for (let i = 0; i < WARM_UP; i++) {
        await layer.step();
        await alone?.step();
      }
      await peak();
      for (let i = 0; i < steps; i++) {
        done.push(await layer.step());
        if (alone) alone_ms.push(await alone.step());
        if (i === steps >> 1) await peak();
      }
      await peak();
      const last = done[done.length - 1],
        step_ms = spread(done.map((s) => s.ms));
      return {
        event: 'layer',
        ...work,
        device: layer.executor.device.info.name,
        threads,
        steps,
        tokens_per_s: (1000 * work.tokens) / step_ms.median,
        step_ms,
        useful_gflops: usefulFlops(work, last.kept) / step_ms.median / 1e6,
        fma_peak_gflops: native && median(peaks),
        peak_bytes: { planned: layer.plannedBytes, rss: resident().peak - start },
        compile_ms: layer.compileMs,
        ...(alone && { products_ms: spread(alone_ms) }),
        ...(profile && { kernels: await layer.profile(steps), limits: await machineLimits(threads) }),
        loss: last.loss,
        load: last.load,
        dropped: 1 - last.kept / (work.tokens * work.topK),
      };
    } finally {
      await alone?.close();
      await layer.close();
    }
  } finally {
    await native?.close();
  }
}

function describe(r: LayerResult): string {
  const f = (x: number): string => x.toFixed(2),
    of =
      r.fma_peak_gflops === null
        ? ''
        : `, ${((100 * r.useful_gflops) / r.fma_peak_gflops).toFixed(1)}% of the peak of ${f(r.fma_peak_gflops)}`;
  const busiest =
    r.load.length === 0
      ? ''
      : `; the busiest expert has ${((100 * Math.max(...r.load)) / r.tokens).toFixed(1)}% of the tokens`;
  const spill = r.overflow === 'spill' ? ', the rest spilled' : '',
    capacity = r.capacity === 'dropless' ? 'dropless' : `capacity factor ${r.capacity}${spill}`,
    network = r.experts === 0 ? 'dense network' : `${r.experts} experts, top-${r.topK}, ${r.dispatch}, ${capacity}`,
    chunked = r.chunks !== undefined && r.chunks > 1;
  const training =
    r.pass === 'train'
      ? [
          r.optimizer,
          ...(r.eager ? ['eager'] : []),
          ...(r.recompute ? ['hidden values computed again'] : []),
          ...(chunked ? [`in ${r.chunks} chunks`] : []),
        ]
      : [];
  return [
    `${network}; ${r.tokens} tokens, width ${r.dModel}, hidden ${r.dFf}, ${r.activation}; ` +
      [r.pass, ...training].join(', '),
    `${r.device}, threads: ${r.threads}; compiled in ${f(r.compile_ms)} ms`,
    `step ${f(r.step_ms.median)} ms median, ${f(r.step_ms.min)} min, ${f(r.step_ms.max)} max over ${r.steps}: ` +
      `${count(r.tokens_per_s)} tokens/s`,
    `useful ${f(r.useful_gflops)} ` +
      `GFLOP/s${of}${busiest}${r.dropped > 0 ? `; ${(100 * r.dropped).toFixed(1)}% of the choices were dropped` : ''}`,
    `memory: planned ${bytes(r.peak_bytes.planned)}, resident at most ${bytes(r.peak_bytes.rss)} above the start`,
    ...(r.products_ms
      ? [
          `its products alone, with equal loads: ${f(r.products_ms.median)} ms median, ${f(r.products_ms.min)} ` +
            `min: the step reaches ${((100 * r.products_ms.median) / r.step_ms.median).toFixed(1)}% of their speed`,
        ]
      : []),
    ...(r.kernels ? ['', kernelTable(r.kernels, r.limits ?? null)] : []),
  ].join('\n');
}
