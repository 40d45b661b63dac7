// Kernels as CUDA C++: one function of blocks and threads for each. src/device/cuda/kernel.cuh, which stands before the
// text, defines the names that begin with DM or dm.
import type { BarrierStmt, GpuFor, GpuKernel, GpuLocal } from '../../schedule/gpu-kernel.ts';
import { forGpu, type Scheduled } from '../../schedule/schedule.ts';
import { cType } from '../c/dialect.ts';
import { BodyWriter, type Names } from '../clike/body.ts';
import { defineFunctions } from '../clike/functions.ts';
import { block, loop } from '../clike/text.ts';
import { CUDA, withWidths } from './dialect.ts';
import { Widths } from './widths.ts';

/** Iterations of loops that are written out, at most. */
const UNROLLED = 8;

export const functionName = (key: string): string => `k_${key}`;

/**
 * The text of a file with these kernels. The parameters of a kernel are 64-bit words: the address of an int32 or 0 (if
 * that int32 is not 0, the kernel does nothing), the address of each buffer, and each run-time integer.
 */
export function emitFile(kernels: readonly { readonly key: string; readonly kernel: Scheduled }[]): string {
  const lines = kernels.flatMap(({ key, kernel }) => [...emitKernel(functionName(key), forGpu(kernel)), '']);
  return [...defineFunctions(CUDA), '', ...lines].join('\n');
}

function emitKernel(name: string, k: GpuKernel): string[] {
  const widths = new Widths(k),
    d = withWidths(widths),
    locals = k.locals.map((l, n): GpuLocal => (widths.holds(n) ? { ...l, dtype: 'int32' } : l)),
    writer = new GpuWriter(d, locals),
    words = 1 + k.buffers.length + k.ints;
  return block(`DM_KERNEL(${name}, ${k.threads}, ${words}) `, [
    'if (DM_SKIP) return;',
    ...k.buffers.map((b, i) => {
      const type = `${b.access === 'read' ? 'const ' : ''}${cType(b.dtype)} *`;
      return `${type}const b${i} = (${type})DM_WORD(${1 + i});`;
    }),
    ...Array.from({ length: k.ints }, (_, i) => d.constant('index', `n${i}`, `DM_WORD(${1 + k.buffers.length + i})`)),
    d.constant(d.typeOf(k.block), k.block.name, 'DM_BLOCK'),
    d.constant(d.typeOf(k.thread), k.thread.name, 'DM_THREAD'),
    ...writer.declarations(locals),
    ...writer.body(k.body),
  ]);
}

/** How often a loop runs, if that is the same in all threads and known. */
function turnsOf({ from, below, step }: GpuFor): number {
  if (below.k !== 'const') return Infinity;
  if (from.k === 'const') return Math.ceil((below.value - from.value) / step);
  return from.k === 'var' && from.max < step && below.value % step === 0 ? below.value / step : Infinity;
}

/** Whether a loop is written out, so that arrays of a thread are registers: a short one, with short ones inside. */
const isShort = (s: GpuFor): boolean =>
  turnsOf(s) <= UNROLLED && s.body.every((b) => b.s !== 'barrier' && (b.s !== 'for' || isShort(b)));

class GpuWriter extends BodyWriter<GpuFor | BarrierStmt> {
  declarations(locals: readonly GpuLocal[]): string[] {
    return locals.map(({ dtype, length, shared }, i) =>
      length > 0
        ? `${shared ? 'DM_SHARED ' : ''}${this.dialect.array(dtype, `t${i}`, length)}`
        : this.dialect.variable(dtype, `t${i}`, null),
    );
  }

  protected override own(s: GpuFor | BarrierStmt, names: Names): string[] {
    if (s.s === 'barrier') return ['__syncthreads();'];
    const { index, step, body } = s,
      d = this.dialect,
      dtype = d.typeOf(index),
      end = `end_${index.name}`,
      inside = this.body(body, names);
    return this.scope(names, (w) => {
      const from = w.value(s.from);
      if (isShort(s)) {
        const turn = `turn_${index.name}`,
          own = d.constant(dtype, index.name, `${from} + ${turn} * ${step}`);
        return ['DM_UNROLL', ...loop(d, 'int32', turn, `${turnsOf(s)}`, [own, ...inside])];
      }
      const below = d.constant(d.typeOf(s.below), end, w.value(s.below));
      return [below, ...loop(d, dtype, index.name, end, inside, { from, step })];
    });
  }
}
