// nvcc compiles the text of every kernel of the conformance cases, of the default language model and of the classifier
// of digits; no thread needs more registers than it has. Everyday runs take a share of them, which
// DYNAMOE_TEST_SEED draws. `npm run ci:full` takes all.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Stream } from '../../../src/base/random.ts';
import type { KernelSource } from '../../../src/device/device.ts';
import { Exprs, type Expr } from '../../../src/kernel/expr.ts';
import type { GpuStmt } from '../../../src/schedule/gpu-kernel.ts';
import { printScheduled } from '../../../src/schedule/print.ts';
import { drawsFromEnv } from '../../support/random-cases.ts';
import { conformanceKernels, modelKernels } from '../../support/cuda/kernels.ts';
import { compileWithNvcc, noNvcc } from '../../support/cuda/nvcc.ts';

const full = process.env['DYNAMOE_FULL'] !== undefined,
  { seed } = drawsFromEnv(),
  SHARE = 48,
  CASES = 8; // of a family, in full runs

function shareOf(kernels: readonly KernelSource[], name: string): KernelSource[] {
  const order = new Stream(seed, name).permutation(0, kernels.length);
  return Array.from(full ? order : order.slice(0, SHARE), (i) => kernels[i]);
}

async function check(all: readonly KernelSource[], name: string, say: (line: string) => void): Promise<void> {
  const kernels = shareOf(all, name),
    uses = await compileWithNvcc(kernels),
    spilled = uses.filter((u) => u.spilled > 0);
  assert.equal(uses.length, kernels.length);
  assert.ok(
    uses.every((u) => u.registers > 0 && u.shared <= 48 * 1024),
    'registers and shared memory were read',
  );
  say(
    `${uses.length} of ${all.length} kernels of ${name}: at most ${Math.max(...uses.map((u) => u.registers))} ` +
      `registers and ${Math.max(...uses.map((u) => u.shared))} bytes of shared memory, ` +
      `${uses.filter((u) => u.stack > 0).length} with arrays in local memory`,
  );
  const texts = spilled.map(({ key, spilled: bytes }) => {
    const { kernel } = kernels.find((k) => k.key === key) ?? {};
    return `${bytes} bytes in ${kernel ? printScheduled(kernel) : key}`;
  });
  assert.equal(spilled.length, 0, `registers are spilled: ${texts.join('\n')}`);
}

test(`kernels of whole models compile, seed ${seed}`, { skip: noNvcc }, async (t) => {
  for (const { name, kernels } of await modelKernels())
    await check(kernels, name, (line) => {
      t.diagnostic(line);
    });
});

test(`kernels of the conformance cases compile, seed ${seed}`, { skip: noNvcc }, async (t) => {
  const kernels = full ? conformanceKernels(drawsFromEnv().seed, CASES) : conformanceKernels(seed, 1);
  await check(kernels, 'the conformance cases', (line) => {
    t.diagnostic(line);
  });
});

/** A thread loads 200 values of its own twice: the sums of the first turn are needed until the end. */
function greedy(): KernelSource {
  const e = new Exprs(),
    block = e.loop(1, 'block'),
    thread = e.loop(256, 'thread'),
    count = 200;
  const at = (i: number): Expr => e.add(e.scale(thread, count), i),
    values = Array.from({ length: count }, (_, i) => e.load(0, at(i), 'float32'));
  const sum = values.reduce((x, y) => e.op('add', [x, y]));
  const body = values.map((v, i): GpuStmt => ({ s: 'store', buffer: 0, index: at(i), value: e.op('mul', [v, sum]) }));
  const buffers = [{ dtype: 'float32', access: 'update' } as const];
  return {
    key: 'greedy',
    kernel: { form: 'threads', buffers, locals: [], ints: 0, blocks: 1, threads: 256, block, thread, body },
  };
}

test('a kernel that needs more registers than a thread has is found', { skip: noNvcc }, async () => {
  const [use] = await compileWithNvcc([greedy()]);
  assert.ok(use.spilled > 0, JSON.stringify(use));
});
