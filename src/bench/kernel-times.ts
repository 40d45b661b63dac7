// The time of a program by kernel, with FLOPs and bytes, compared with the limits of the machine (the roofline model:
// Williams et al. 2009). Bytes count each tensor that a kernel uses once; data that is already in a cache is read
// faster.
import type { LoadedProgram } from '../run/program.ts';
import { openNative } from '../session/node.ts';
import { count, table } from '../base/format.ts';

export interface KernelTime {
  readonly ops: string;
  readonly scope: string;
  steps: number;
  ns: number;
  flops: number;
  bytes: number;
}

/** GFLOP/s and GB/s of the machine; null if they cannot be measured. */
export interface Limits {
  readonly gflops: number;
  readonly gbs: number;
}

export async function machineLimits(threads: number): Promise<Limits | null> {
  const native = await openNative(threads).catch(() => null);
  if (!native) return null;
  try {
    const gflops = await native.fmaPeak(0.2),
      gbs = await native.memoryPeak();
    return gbs > 0 ? { gflops, gbs } : null;
  } finally {
    await native.close();
  }
}

/** Time by kind of kernel and place in the model, summed over layers; means over `runs`. */
export function byKernel({ program }: LoadedProgram, ns: Float64Array, runs: number): KernelTime[] {
  const rows = new Map<string, KernelTime>();
  program.steps.forEach((step, i) => {
    const ops = step.ops.join('+'),
      scope = (step.scope ?? '').replace(/\.\d+/g, '.*'),
      key = `${ops} ${scope}`;
    const row = rows.get(key) ?? { ops, scope, steps: 0, ns: 0, flops: 0, bytes: 0 };
    rows.set(key, row);
    row.steps++;
    row.ns += ns[i] / runs;
    row.flops += step.flops;
    row.bytes += [...new Set(step.buffers)].reduce((n, b) => n + program.tensors[b].bytes, 0);
  });
  return [...rows.values()].sort((a, b) => b.ns - a.ns);
}

/** The shortest time that the machine's limits allow, divided by the time; 1 is the best possible. */
export const ofRoofline = (
  { ns, flops, bytes }: Pick<KernelTime, 'ns' | 'flops' | 'bytes'>,
  { gflops, gbs }: Limits,
): number => Math.max(flops / gflops, bytes / gbs) / ns;

export function kernelTable(rows: readonly KernelTime[], limits: Limits | null): string {
  const total = rows.reduce((n, r) => n + r.ns, 0),
    shown = 48,
    percent = (x: number): string => `${(100 * x).toFixed(1)}%`;
  const cut = (s: string): string => (s.length > shown ? `${s.slice(0, shown - 1)}…` : s);
  const head = limits
    ? [`limits: ${limits.gflops.toFixed(0)} GFLOP/s, ${limits.gbs.toFixed(0)} GB/s; roofline: share of the nearer one`]
    : [];
  return [
    ...head,
    table(
      ['share', 'ms', 'steps', 'GFLOP/s', 'bytes', 'GB/s', 'roofline', 'kernel', 'in'],
      rows.map((r) => [
        percent(r.ns / total),
        (r.ns / 1e6).toFixed(3),
        String(r.steps),
        (r.flops / r.ns).toFixed(1),
        count(r.bytes),
        (r.bytes / r.ns).toFixed(1),
        limits ? percent(ofRoofline(r, limits)) : '-',
        cut(r.ops),
        r.scope,
      ]),
    ),
  ].join('\n');
}
