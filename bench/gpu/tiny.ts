// Small kernels for a checker of memory (parts/sanitizer.ts): some conformance cases, or with the argument `planted`
// one kernel that writes behind its buffer, which the checker must find.
import { Exprs } from '../../src/kernel/expr.ts';
import type { GpuKernel } from '../../src/schedule/gpu-kernel.ts';
import { compileGroups, GROUPS, hashesOf } from './cases.ts';
import { openGpu } from './device.ts';

const EVERY = 20;

/** Thread t stores to element t + 2^20. */
function planted(): GpuKernel {
  const e = new Exprs(),
    block = e.loop(1, 'block'),
    thread = e.loop(32, 'thread'),
    index = e.linear(2 ** 20, [[1, thread]]);
  return {
    form: 'threads',
    buffers: [{ dtype: 'float32', access: 'write' }],
    locals: [],
    ints: 0,
    blocks: 1,
    threads: 32,
    block,
    thread,
    body: [{ s: 'store', buffer: 0, index, value: e.const(1, 'float32') }],
  };
}

const device = await openGpu();
if (process.argv.includes('planted')) {
  await device.compile([{ key: 'planted', kernel: planted() }]);
  const memory = device.alloc(256),
    bound = device.bind([
      { kernel: 'planted', buffers: [{ memory, offset: 0 }], ints: [], barrier: true, unless: null },
    ]);
  await bound.run();
  await device.read([{ place: { memory, offset: 0 }, into: new Float32Array(4) }]);
} else {
  const groups = GROUPS.filter((_, i) => i % EVERY === 0);
  await compileGroups(groups, device);
  for (const group of groups) await hashesOf(group, device);
}
await device.close();
