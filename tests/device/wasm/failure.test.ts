// If a thread of the wasm device fails, the run ends with the reason, whichever thread reports first. Later runs end
// with the same reason.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import type { Worker } from 'node:worker_threads';
import { WasmTable } from '../../../src/device/wasm/table.ts';
import { WasmDevice } from '../../../src/device/wasm/wasm.ts';
import { compile } from '../../../src/session/node.ts';
import { crossEntropy } from '../../../src/nn/loss.ts';
import { sgd } from '../../../src/optim/sgd.ts';
import { ProgramExecutor } from '../../../src/run/program.ts';
import { toyBatch, toyLM } from '../../support/toy.ts';

for (const threads of [1, 2, 3, 8]) {
  test(`${threads} threads: a failed run gives its reason`, { timeout: 60_000 }, async () => {
    await using session = await compile(toyLM(), {
      loss: crossEntropy,
      optimizer: sgd({ lr: 0.1 }),
      device: 'wasm',
      threads,
    });
    await session.prepare(toyBatch(0));
    const { executor } = session;
    assert.ok(executor instanceof ProgramExecutor && executor.device instanceof WasmDevice);
    // Makes a step in the middle of the table call a kernel that does not exist.
    const [{ bound }] = executor.loadedPrograms();
    assert.ok(bound instanceof WasmTable);
    executor.device.write({ memory: bound.table, offset: 16 * (bound.steps >> 1) }, Int32Array.of(99_999));
    await assert.rejects(session.step(toyBatch(0)), /the wasm device failed: TypeError/);
    await assert.rejects(session.step(toyBatch(0)), /the wasm device failed: TypeError/);
  });
}

test('if a thread ends, the run fails at once', { timeout: 60_000 }, async () => {
  const workers: Worker[] = [],
    note = (worker: Worker): void => {
      workers.push(worker);
    };
  process.on('worker', note);
  await using session = await compile(toyLM(), {
    loss: crossEntropy,
    optimizer: sgd({ lr: 0.1 }),
    device: 'wasm',
    threads: 2,
  });
  await session.step(toyBatch(0));
  process.off('worker', note);
  // A step may be finished before the thread ends: steps are run until one fails.
  const ended = once(workers[0], 'exit'),
    failed = assert.rejects(async () => {
      for (;;) await session.step(toyBatch(0));
    }, /a thread of the wasm device ended/);
  await workers[0].terminate();
  await ended;
  await failed;
  await assert.rejects(session.step(toyBatch(0)), /a thread of the wasm device ended/);
});
