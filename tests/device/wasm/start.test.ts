// The wasm device if threads do not start or the engine has no memory for code: the error says so, and later attempts
// work.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { test } from 'node:test';
import type { Worker } from 'node:worker_threads';
import { UserError } from '../../../src/base/errors.ts';
import { WasmDevice } from '../../../src/device/wasm/wasm.ts';
import { crossEntropy } from '../../../src/nn/loss.ts';
import { sgd } from '../../../src/optim/sgd.ts';
import { compile } from '../../../src/session/node.ts';
import { toyBatch, toyLM } from '../../support/toy.ts';

test('a thread cannot be started: a UserError, and the threads that did start end', async (t) => {
  const threads = createRequire(import.meta.url)('node:worker_threads') as { Worker: typeof Worker },
    real = threads.Worker,
    started: Worker[] = [];
  t.after(() => {
    threads.Worker = real;
  });
  threads.Worker = new Proxy(real, {
    construct(target, args: ConstructorParameters<typeof Worker>) {
      if (started.length === 2) throw new Error('EAGAIN');
      const worker = new target(...args);
      started.push(worker);
      return worker;
    },
  });
  const ended = (): Promise<unknown> =>
    Promise.all(
      started.map(
        (worker) =>
          new Promise((resolve) => {
            worker.once('exit', resolve);
          }),
      ),
    );
  await assert.rejects(
    WasmDevice.open(3, { memory: 1 << 20 }),
    (error: unknown) => error instanceof UserError && /3 threads could not be started: EAGAIN/.test(error.message),
  );
  await ended();
});

test('there is no memory to compile kernels: a UserError, and the next attempt works', async (t) => {
  await using session = await compile(toyLM(), {
    loss: crossEntropy,
    optimizer: sgd({ lr: 0.1 }),
    device: 'wasm',
    threads: 2,
  });
  await using plain = await compile(toyLM(), {
    loss: crossEntropy,
    optimizer: sgd({ lr: 0.1 }),
    device: 'wasm',
    threads: 2,
  });
  await session.forward(toyBatch(0));
  await plain.forward(toyBatch(0));
  const real = WebAssembly.compile;
  t.after(() => {
    WebAssembly.compile = real;
  });
  WebAssembly.compile = () => Promise.reject(new RangeError('WebAssembly.compile(): Out of memory'));
  await assert.rejects(
    session.step(toyBatch(0)),
    (error: unknown) => error instanceof UserError && /too little memory to compile kernels/.test(error.message),
  );
  WebAssembly.compile = real;
  for (let i = 0; i < 2; i++)
    assert.equal((await session.step(toyBatch(i))).loss, (await plain.step(toyBatch(i))).loss);
});
