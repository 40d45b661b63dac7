// A copy of a tensor as a kernel: several threads of a CPU copy faster than one.
import { hashHex } from '../base/hash.ts';
import { elements, type TensorType } from '../base/shape.ts';
import { Exprs } from '../kernel/expr.ts';
import type { LoopKernel } from '../kernel/kernel.ts';
import { printKernel } from '../kernel/print.ts';
import { verifyKernel } from '../kernel/verify.ts';

const WORK = 0.5; // of an element that is only copied

/** Copies buffer 1 to buffer 0. `key`: the hash of its text, as for all kernels. */
export function copyKernel({ dtype, shape }: TensorType): { readonly key: string; readonly kernel: LoopKernel } {
  const e = new Exprs(),
    size = elements(shape),
    index = e.loop(size, 'p');
  const kernel: LoopKernel = {
    form: 'loops',
    locals: [],
    ints: 0,
    buffers: [
      { dtype, access: 'write' },
      { dtype, access: 'read' },
    ],
    grid: { index, extent: e.index(size), work: WORK, elements: true, row: null },
    body: [{ s: 'store', buffer: 0, index, value: e.load(1, index, dtype) }],
  };
  verifyKernel(kernel);
  return { key: hashHex(printKernel(kernel)), kernel };
}
