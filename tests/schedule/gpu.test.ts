// The schedule for a GPU: what it gives for every kernel of the conformance cases, its limits, and what its verifier
// refuses. tests/interpreter runs what it gives.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { VerifyError } from '../../src/base/errors.ts';
import { Exprs } from '../../src/kernel/expr.ts';
import { compileGraph } from '../../src/pipeline.ts';
import type { GpuKernel, GpuStmt } from '../../src/schedule/gpu-kernel.ts';
import { sharedBytes, verifyGpu } from '../../src/schedule/gpu-verify.ts';
import { GPU } from '../../src/schedule/gpu.ts';
import { printScheduled } from '../../src/schedule/print.ts';
import type { Scheduled } from '../../src/schedule/schedule.ts';
import type { GpuTarget } from '../../src/schedule/target.ts';
import { all } from '../conformance/cases/index.ts';
import { buildCase } from '../conformance/harness.ts';

function kernelsOf(op: string, target: GpuTarget = GPU): GpuKernel[] {
  const family = all.find((f) => f.op === op);
  assert.ok(family, `no family ${op}`);
  return fc
    .sample(family.cases, { seed: 1, numRuns: 3 })
    .flatMap((c) => compileGraph(buildCase(c).graph, target).kernels.map((k) => threads(k.kernel)));
}

function threads(k: Scheduled): GpuKernel {
  assert.equal(k.form, 'threads');
  return k;
}

test('every kernel of the conformance cases has a schedule for a GPU', () => {
  const kinds = new Map<string, number>();
  for (const f of all) {
    for (const { kernel } of compileGraph(buildCase(fc.sample(f.cases, { seed: 2, numRuns: 1 })[0]).graph, GPU)
      .kernels) {
      const text = printScheduled(kernel),
        kind = sharedBytes(threads(kernel)) > 0 ? 'shared' : /barrier/.test(text) ? 'barrier' : 'elements';
      kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
    }
  }
  assert.ok((kinds.get('shared') ?? 0) > 100 && (kinds.get('elements') ?? 0) > 100, [...kinds].join(', '));
});

test('where shared memory is small, a product copies less of its operands at once; other kernels are refused', () => {
  const most = Math.max(...kernelsOf('matmul').map(sharedBytes)),
    small = { ...GPU, shared: 1024 },
    own = Math.max(...kernelsOf('matmul', small).map(sharedBytes));
  assert.ok(most > 1024 && own <= 1024, `${most} and ${own} bytes`);
  assert.throws(() => kernelsOf('attention', small), /needs \d+ bytes of shared memory, and the target has 1024/);
});

/** A kernel of a block of 32 threads: one buffer of float32, one shared array. */
function kernel(
  body: (e: Exprs, thread: ReturnType<Exprs['loop']>) => GpuStmt[],
  locals?: GpuKernel['locals'],
): GpuKernel {
  const e = new Exprs(),
    block = e.loop(1, 'block'),
    thread = e.loop(32, 'thread');
  return {
    form: 'threads',
    buffers: [{ dtype: 'float32', access: 'update' }],
    locals: locals ?? [{ dtype: 'float32', length: 32, shared: true }],
    ints: 0,
    blocks: 1,
    threads: 32,
    block,
    thread,
    body: body(e, thread),
  };
}

test('the verifier refuses a barrier that not all threads reach', () => {
  const refused = (k: GpuKernel): void => {
    assert.throws(
      () => verifyGpu(k, GPU),
      (error) => error instanceof VerifyError && /a barrier stands where only some threads/.test(error.message),
    );
  };
  const barrier: GpuStmt = { s: 'barrier' };
  refused(kernel((e, thread) => [{ s: 'if', condition: e.op('lt', [thread, e.index(16)], 'bool'), body: [barrier] }]));
  refused(
    kernel((e, thread) => [
      { s: 'for', index: e.loop(32), from: thread, below: e.index(32), step: 1, body: [barrier] },
    ]),
  );
  // The condition reads a local that differs between threads.
  refused(
    kernel(
      (e, thread) => [
        { s: 'set', local: 0, index: null, value: e.add(thread, e.index(1)) },
        { s: 'if', condition: e.op('lt', [e.local(0, 'index'), e.index(16)], 'bool'), body: [barrier] },
      ],
      [{ dtype: 'index', length: 0, shared: false }],
    ),
  );
  // A condition that reads shared memory is the same for all threads.
  const one = kernel((e) => [
    {
      s: 'if',
      condition: e.op('lt', [e.local(0, 'float32', e.index(0)), e.const(1, 'float32')], 'bool'),
      body: [barrier],
    },
  ]);
  assert.equal(verifyGpu(one, GPU), one);
});

test('the verifier refuses more threads than a block can have, and too few for a reduction', () => {
  const plain = kernel(() => []);
  assert.throws(
    () => verifyGpu({ ...plain, threads: 512 }, GPU),
    /512 threads, where powers of 2 from 16 to 256 are possible/,
  );
  assert.throws(() => verifyGpu({ ...plain, threads: 8 }, GPU), /8 threads/);
  assert.throws(() => verifyGpu({ ...plain, threads: 96 }, GPU), /96 threads/);
  assert.throws(
    () =>
      verifyGpu(
        kernel(() => [], [{ dtype: 'float32', length: 0, shared: true }]),
        GPU,
      ),
    /t0 is shared, but no array/,
  );
});
