// Kernel to GpuKernel: how a GPU runs what the kernel says. No decision here changes a bit: sums keep their order.
import { Exprs } from '../kernel/expr.ts';
import type { Kernel, LoopKernel } from '../kernel/kernel.ts';
import { BlockStatements } from './gpu-block.ts';
import { withBarriers } from './gpu-barriers.ts';
import type { GpuKernel } from './gpu-kernel.ts';
import { productTiles } from './gpu-product.ts';
import { bytesOf, verifyGpu } from './gpu-verify.ts';
import { inThread, isTogether, scansAsLoops } from './gpu-statements.ts';
import { importKernel } from './import.ts';
import { ANYTHING, type GpuTarget } from './target.ts';

/**
 * Kernels without tiles start so many times the target's blocks: their threads need few registers, so that more blocks
 * run at the same time, and some compute while others wait for memory.
 */
const LIGHT = 4;

/** Bytes of arrays that a thread may have for itself, where its iteration could also have a block. */
const PRIVATE = 1024;

/** What every graphics processor of NVIDIA has; two blocks on each of 132 multiprocessors. */
export const GPU: GpuTarget = {
  kind: 'gpu',
  limits: ANYTHING,
  threads: 256,
  shared: 48 * 1024,
  blocks: 264,
  schedule: (kernel, target) => verifyGpu(scheduleGpu(kernel, target), target),
};

function scheduleGpu(kernel: Kernel, target: GpuTarget): GpuKernel {
  const e = new Exprs(),
    own = importKernel(e, kernel);
  if (own.form === 'matmul') return withBarriers(productTiles(e, own, target));
  const arrays = own.locals.reduce((bytes, l) => bytes + l.length * bytesOf(l.dtype), 0),
    alone = own.grid.elements || (arrays <= PRIVATE && !own.body.some(isTogether));
  return alone ? elements(e, own, target) : withBarriers(iterations(e, own, target));
}

/** A thread computes an element, or another iteration without parts that a block could share, with the loops in it. */
function elements(e: Exprs, { grid, buffers, locals, ints, body }: LoopKernel, target: GpuTarget): GpuKernel {
  const { threads } = target,
    blocks = Math.max(1, Math.min(LIGHT * target.blocks, Math.ceil((grid.index.max + 1) / threads))),
    block = e.loop(blocks, 'block'),
    thread = e.loop(threads, 'thread');
  const from = e.linear(0, [
    [threads, block],
    [1, thread],
  ]);
  return {
    form: 'threads',
    buffers,
    locals: locals.map((l) => ({ ...l, shared: false })),
    ints,
    blocks,
    threads,
    block,
    thread,
    body: [{ s: 'for', index: grid.index, from, below: grid.extent, step: blocks * threads, body: inThread(e, body) }],
  };
}

/** A block of threads runs an iteration. */
function iterations(e: Exprs, k: LoopKernel, target: GpuTarget): GpuKernel {
  const { grid, buffers, ints } = k,
    { threads } = target,
    blocks = Math.max(1, Math.min(LIGHT * target.blocks, grid.index.max + 1)),
    block = e.loop(blocks, 'block'),
    thread = e.loop(threads, 'thread'),
    statements = new BlockStatements(e, { ...k, body: scansAsLoops(e, k.body, k.locals) }, thread, threads),
    body = statements.all();
  return {
    form: 'threads',
    buffers,
    locals: statements.locals,
    ints,
    blocks,
    threads,
    block,
    thread,
    body: [{ s: 'for', index: grid.index, from: block, below: grid.extent, step: blocks, body }],
  };
}
