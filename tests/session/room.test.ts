// A model whose states alone need more memory than there is gets refused before it is traced.
import assert from 'node:assert/strict';
import { stat } from 'node:fs/promises';
import { test } from 'node:test';
import { hostTensor } from '../../src/base/tensor.ts';
import type { Tensor } from '../../src/graph/tensor.ts';
import { meanSquaredError } from '../../src/nn/loss.ts';
import { Linear } from '../../src/nn/linear.ts';
import { MoE } from '../../src/nn/moe/moe.ts';
import { TransformerLM } from '../../src/nn/transformer.ts';
import { adamW } from '../../src/optim/adam.ts';
import type { Optimizer } from '../../src/optim/optimizer.ts';
import { sgd } from '../../src/optim/sgd.ts';
import { MemoryError } from '../../src/session/backend.ts';
import { compile } from '../../src/session/node.ts';
import type { DeviceName } from '../../src/session/platform.ts';
import { TrainingMemory } from '../../src/session/room.ts';
import { Updating } from '../../src/session/updating.ts';
import { Knobs } from '../../src/trace/knobs.ts';
import { nameParameters } from '../../src/trace/module.ts';
import { call } from '../../src/trace/trace.ts';
import { command, writeText } from '../cli/command.ts';
import { temporaryFolder } from '../io/folder.ts';
import { noCompiler } from '../support/toy.ts';

/** A layer that counts how often it is traced. */
class CountsTraces {
  readonly layer: Linear;
  traced = 0;
  constructor(width: number) {
    this.layer = new Linear(width, width, { bias: false });
  }
  forward(x: Tensor): Tensor {
    this.traced++;
    return call(this.layer, x);
  }
}

const batch = (width: number) => ({
  x: hostTensor('float32', [1, width], new Float32Array(width)),
  y: hostTensor('float32', [1, width], new Float32Array(width)),
});
const DEVICES: readonly DeviceName[] = ['native', 'wasm', 'reference'];

for (const device of DEVICES) {
  const skip = device === 'native' && noCompiler;

  test(
    `${device}: parameters that do not fit are refused by compile; on the reference by the first step`,
    { skip },
    async () => {
      const model = new CountsTraces(2 ** 15);
      const options = { loss: meanSquaredError, optimizer: sgd({ lr: 1 }), device, memory: 2 ** 30 };
      const what = new RegExp(
        String.raw`the model needs at least 4\.00 GiB of memory \(4294967296 bytes\), 1\.00 GiB are ` +
          String.raw`available[^]*4\.00 GiB {2}layer\.weight float32\[32768, 32768\][^]*hint: `,
      );
      if (device !== 'reference') await assert.rejects(compile(model, options), what);
      else {
        const session = await compile(model, options);
        await assert.rejects(session.step(batch(2 ** 15)), what);
        await session.close();
      }
      assert.equal(model.traced, 0);
    },
  );

  test(
    `${device}: moments that do not fit are refused before the first step is traced; predict still works`,
    { skip },
    async () => {
      const width = 64,
        bytes = 4 * width * width,
        room = (extra: number): number => 2 ** 20 + extra;
      const step = async (optimizer: Optimizer, memory: number): Promise<{ traced: number; error: string | null }> => {
        const model = new CountsTraces(width);
        const session = await compile(model, { loss: meanSquaredError, optimizer, device, memory });
        const error = await session.step(batch(width)).then(
          () => null,
          (e: unknown) => String(e),
        );
        const { traced } = model;
        if (device !== 'reference' && memory >= room(bytes)) await session.predict(batch(width).x);
        await session.close();
        return { traced, error };
      };
      const least = await step(adamW({ lr: 1e-3 }), 3 * bytes - 1);
      assert.equal(least.traced, 0);
      assert.match(
        least.error ?? '',
        /needs at least 48\.0 KiB of memory \(49152 bytes\), 48\.0 KiB are available.*:\n/,
      );
      assert.match(least.error ?? '', /:\n {2}parameters 16\.0 KiB, moments of the optimizer 32\.0 KiB\n/);
      // If there is memory for all states, the step is traced, and its plan is checked as a whole.
      assert.equal((await step(adamW({ lr: 1e-3 }), 3 * bytes)).traced > 0, true);
      assert.equal((await step(sgd({ lr: 1, momentum: 0.5 }), 2 * bytes - 1)).traced, 0);
      assert.equal((await step(sgd({ lr: 1 }), bytes)).traced > 0, true);
      assert.equal((await step(adamW({ lr: 1e-3 }), room(3 * bytes))).error, null);
    },
  );
}

test('memory is checked again when the set of trained parameters changes, with any optimizer', () => {
  const parts = { a: new Linear(8, 8, { bias: false }), b: new Linear(8, 8, { bias: false }) },
    named = nameParameters(parts);
  for (const optimizer of [sgd({ lr: 1, momentum: 0.5 }), adamW({ lr: 1 })]) {
    const moments = optimizer.moments?.length ?? 0,
      bytes = (2 + moments) * 256;
    const room = new TrainingMemory(named, { optimizer }, new Updating(named, optimizer, new Knobs(named)), {
      room: () => ({ bytes, why: '' }),
    });
    parts.b.weight.frozen = true;
    room.check(false);
    parts.b.weight.frozen = false;
    assert.throws(() => {
      room.check(false);
    }, MemoryError);
    parts.b.weight.frozen = [true, ...Array<boolean>(7).fill(false)];
    assert.throws(() => {
      room.check(false);
    }, MemoryError);
    parts.b.weight.frozen = true;
    room.check(false);
    assert.throws(() => {
      room.check(true);
    }, MemoryError); // with sums of gradients
  }
});

test('the error of the wasm device names the limit of its addresses', async () => {
  const model = new CountsTraces(20_000),
    session = await compile(model, {
      loss: meanSquaredError,
      optimizer: adamW({ lr: 1e-3 }),
      device: 'wasm',
      memory: 2 ** 33,
    });
  await assert.rejects(
    session.step(batch(20_000)),
    /needs at least 4\.47 GiB of memory .*, .* are available \(the wasm device /,
  );
  assert.equal(model.traced, 0);
  await session.close();
});

test('numbers of layers and experts that would take too long to build are refused by the constructor', () => {
  const options = { vocab: 256, dModel: 16, heads: 2, context: 16 },
    moe = { experts: 8, topK: 2, hidden: 16 };
  assert.throws(
    () => new TransformerLM({ ...options, layers: 1e9 }),
    /TransformerLM: at most 10000 layers .*, got 1000000000 layers/,
  );
  assert.throws(
    () => new TransformerLM({ ...options, layers: 4, moe: { ...moe, experts: 1e9 } }),
    /at most 10000 layers and 1048576 experts in all can be built, got 4 layers of 1000000000 experts/,
  );
  assert.throws(() => new MoE({ dModel: 16, ...moe, experts: 2 ** 21 }), /MoE: at most 1048576 experts, got 2097152/);
  assert.equal(new TransformerLM({ ...options, context: 1e9, layers: 1 }).blocks.length, 1);
});

test('`dynamoe train` refuses a model that cannot fit, and writes no run folder', async (t) => {
  const folder = await temporaryFolder(t),
    data = await writeText(folder),
    out = `${folder}/run`;
  for (const [flags, words] of [
    [['--d-model', '1048576', '--layers', '200'], /float32\[1048576, 3145728\] has 3298534883328 elements, more than/],
    [['--d-model', '16384', '--layers', '200'], /needs at least \d\.\d+ TiB/],
    [['--d-model', '16384', '--layers', '200', '--device', 'reference'], /needs at least \d\.\d+ TiB/],
    [['--d-ff', '1000000000'], /1024000000000 elements, more than/],
    [['--layers', '1000000000'], /at most 10000 layers/],
    [['--experts', '1000000000'], /1048576 experts in all/],
    [['--batch', '1000000000'], /64000000000 tokens, more than/],
    [['--context', '1000000000'], /12000000000 tokens, more than/],
  ] as const) {
    const { code, stderr } = await command('train', '--data', data, '--steps', '1', '--out', out, ...flags);
    assert.notEqual(code, 0);
    assert.match(stderr, words);
    await assert.rejects(stat(out), { code: 'ENOENT' });
  }
});
