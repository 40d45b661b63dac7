// dynamoe bench scaling: measures how the cost of a layer grows with tokens, experts, width and threads, one at a
// time. The layers of a curve alternate in one process. Cost should follow active FLOPs: more experts for the same
// tokens should take no longer.
import { availableParallelism } from 'node:os';
import { openNative } from '../session/node.ts';
import type { DeviceName } from '../session/platform.ts';
import { median } from '../observe/quantile.ts';
import { spread, type Spread } from './layer.ts';
import { bytes, count, table } from '../base/format.ts';
import { LayerBench, usefulFlops, type LayerWork } from './layer-work.ts';

export const CURVES = ['tokens', 'experts', 'width', 'threads'] as const;
export type Curve = (typeof CURVES)[number];

export interface ScalingFlags {
  readonly curve: readonly Curve[];
  readonly rounds: number;
  readonly device: DeviceName;
  readonly threads?: number;
  readonly json?: boolean;
}

interface Point {
  readonly curve: Curve;
  readonly at: number;
  readonly work: LayerWork;
  readonly threads: number;
}

export interface ScalingResult extends Pick<LayerWork, 'tokens' | 'dModel' | 'dFf' | 'experts' | 'topK'> {
  readonly event: 'scaling';
  readonly curve: Curve;
  readonly at: number;
  readonly threads: number;
  readonly step_ms: Spread;
  readonly tokens_per_s: number;
  readonly useful_gflops: number;
  /** Peak GFLOP/s of fused multiply-adds on the same number of threads, measured between the steps. */
  readonly fma_peak_gflops: number | null;
  readonly planned_bytes: number;
  /** Its time per useful FLOP, divided by that of the curve's base layer (8 experts; otherwise the smallest). */
  readonly cost: number;
}

const BASE: LayerWork = {
  tokens: 2048,
  dModel: 256,
  dFf: 1024,
  experts: 8,
  topK: 2,
  capacity: 'dropless',
  overflow: 'drop',
  dispatch: 'ragged',
  skew: 0,
  activation: 'relu',
  optimizer: 'sgd',
  eager: true,
  pass: 'train',
};

/** Powers of 2. */
const powers = (from: number, to: number): number[] => (from > to ? [] : [from, ...powers(2 * from, to)]);

/** The layers of a curve. One expert means a dense network with the same active FLOPs. */
export function pointsOf(curve: Curve, threads: number): Point[] {
  switch (curve) {
    case 'tokens':
      return powers(64, 8192).map((at) => ({ curve, at, threads, work: { ...BASE, tokens: at } }));
    case 'experts':
      return powers(1, 256).map((at) => ({ curve, at, threads, work: { ...BASE, experts: at === 1 ? 0 : at } }));
    case 'width':
      return powers(64, 1024).map((at) => ({ curve, at, threads, work: { ...BASE, dModel: at, dFf: 4 * at } }));
    case 'threads':
      return powers(1, threads).map((at) => ({ curve, at, threads: at, work: BASE }));
  }
}

export async function benchScaling({
  curve: curves,
  rounds,
  device,
  threads = availableParallelism(),
  json,
}: ScalingFlags): Promise<void> {
  for (const curve of curves) {
    const results = await measure(pointsOf(curve, threads), rounds, device);
    process.stdout.write(
      json ? results.map((r) => `${JSON.stringify(r)}\n`).join('') : `${describe(curve, results)}\n\n`,
    );
  }
}

async function measure(points: readonly Point[], rounds: number, device: DeviceName): Promise<ScalingResult[]> {
  const say = (line: string): void => {
    process.stderr.write(`dynamoe: ${line}\n`);
  };
  const layers: { point: Point; layer: LayerBench; ms: number[]; peaks: number[] }[] = [];
  try {
    for (const point of points)
      layers.push({
        point,
        layer: await LayerBench.open(point.work, { device, threads: point.threads, say }),
        ms: [],
        peaks: [],
      });
    for (const { layer } of layers) for (let i = 0; i < 2; i++) await layer.step();
    for (let round = 0; round < rounds; round++) {
      for (const { point, layer, ms, peaks } of layers) {
        // The first step of a turn is not measured: the CPU caches hold data of another layer.
        await layer.step();
        for (let i = 0; i < STEPS; i++) ms.push((await layer.step()).ms);
        const native = await openNative(point.threads).catch(() => null);
        if (native) {
          peaks.push(await native.fmaPeak(0.02));
          await native.close();
        }
      }
    }
    const costs = layers.map(
      ({ point, ms }) => median(ms) / usefulFlops(point.work, point.work.tokens * point.work.topK),
    );
    const base =
      costs[
        Math.max(
          0,
          points.findIndex((p) => p.curve !== 'experts' || p.at === 8),
        )
      ];
    return layers.map(({ point: { curve, at, work, threads }, layer, ms, peaks }, i): ScalingResult => {
      const { tokens, dModel, dFf, experts, topK } = work,
        step_ms = spread(ms);
      return {
        event: 'scaling',
        curve,
        at,
        tokens,
        dModel,
        dFf,
        experts,
        topK,
        threads,
        step_ms,
        tokens_per_s: (1000 * tokens) / step_ms.median,
        useful_gflops: usefulFlops(work, tokens * topK) / step_ms.median / 1e6,
        fma_peak_gflops: peaks.length > 0 ? median(peaks) : null,
        planned_bytes: layer.plannedBytes,
        cost: costs[i] / base,
      };
    });
  } finally {
    for (const { layer } of layers) await layer.close();
  }
}

const STEPS = 3;

function describe(curve: Curve, results: readonly ScalingResult[]): string {
  const f = (x: number): string => x.toFixed(2),
    base = curve === 'experts' ? 'that of 8 experts' : 'that of the first';
  return [
    `${curve}; training steps with updates as gradients come; cost: time for each useful FLOP, over ${base}`,
    table(
      [curve, 'step, ms', 'best', 'tokens/s', 'GFLOP/s', 'of peak', 'planned', 'cost'],
      results.map((r) => [
        String(r.at),
        f(r.step_ms.median),
        f(r.step_ms.min),
        count(r.tokens_per_s),
        r.useful_gflops.toFixed(1),
        r.fma_peak_gflops === null ? '-' : `${((100 * r.useful_gflops) / r.fma_peak_gflops).toFixed(1)}%`,
        bytes(r.planned_bytes),
        f(r.cost),
      ]),
    ),
  ].join('\n');
}
