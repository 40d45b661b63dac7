// Slices of stored values are read in place: slices of queries, keys and values need no kernels, and the results have
// the same bits. If the view would keep three times as many bytes in memory until the backward pass, the slice is
// copied instead.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Stream } from '../../src/base/random.ts';
import { GraphBuilder } from '../../src/graph/builder.ts';
import { attention } from '../../src/graph/ops/attention/attention.ts';
import { ops } from '../../src/graph/ops/index.ts';
import { slice } from '../../src/graph/ops/shape/slice.ts';
import { transpose } from '../../src/graph/ops/shape/transpose.ts';
import type { Tensor } from '../../src/graph/tensor.ts';
import { crossEntropy } from '../../src/nn/loss.ts';
import { adamW } from '../../src/optim/adam.ts';
import { compileGraph, loadProgram, type Compiled } from '../../src/pipeline.ts';
import { ProgramExecutor } from '../../src/run/program.ts';
import { compile } from '../../src/session/node.ts';
import { DEVICES } from '../conformance/devices.ts';
import { toyBatch, toyLM } from '../support/toy.ts';

const stepsOf = ({ program }: Compiled, op: string): number => program.steps.filter((s) => s.ops.includes(op)).length;

for (const D of [16, 20])
  for (const entry of DEVICES) {
    test(`attention over slices, heads of ${D}: ${entry.name}`, async (t) => {
      const reason = await entry.skip();
      if (reason !== null) {
        t.skip(reason);
        return;
      }
      const B = 2,
        T = 21,
        H = 3,
        executor = new ProgramExecutor(await entry.open());
      const part = (n: number): Float32Array =>
        Float32Array.from({ length: B * T * H * D }, (_, i) => new Stream(3, 'view').normal(n, i));
      const parts = [0, 1, 2].map(part),
        row = H * D,
        whole = Float32Array.from(
          { length: 3 * B * T * row },
          (_, i) => parts[Math.floor(i / row) % 3][Math.floor(i / (3 * row)) * row + (i % row)],
        );
      const run = async (
        name: string,
        inputs: Record<string, Float32Array>,
        build: (b: GraphBuilder) => Tensor[],
      ): Promise<{ o: Float32Array; compiled: Compiled }> => {
        const b = new GraphBuilder(ops),
          [q, k, v] = build(b);
        b.output('o', attention(q, k, v, 0, { causal: true }));
        const compiled = compileGraph(b.build(), executor.device.target),
          loaded = await loadProgram(executor, compiled),
          got = await executor.run(loaded, inputs);
        executor.release(loaded);
        return { o: got['o'].data as Float32Array, compiled };
      };
      const shape = [B, T, H, D],
        named = Object.fromEntries(['q', 'k', 'v'].map((n, i) => [n, parts[i]]));
      const apart = await run('apart', named, (b) =>
        ['q', 'k', 'v'].map((n) => b.input('input', n, { dtype: 'float32', shape })),
      );
      const sliced = await run('sliced', { x: whole }, (b) => {
        const x = b.input('input', 'x', { dtype: 'float32', shape: [B, T, 3 * H, D] });
        return [0, H, 2 * H].map((from) => slice(x, 2, from, from + H));
      });
      assert.equal(stepsOf(sliced.compiled, 'slice'), 0);
      assert.deepEqual(sliced.o, apart.o);
      // Batch and time are exchanged, so the view has other strides.
      const turned = Float32Array.from(whole, (_, i) => {
        const w = 3 * row,
          t = Math.floor(i / w / B),
          b = Math.floor(i / w) % B;
        return whole[(b * T + t) * w + (i % w)];
      });
      const exchanged = await run('exchanged', { x: turned }, (b) => {
        const x = b.input('input', 'x', { dtype: 'float32', shape: [T, B, 3 * H, D] });
        return [0, H, 2 * H].map((from) => transpose(slice(x, 2, from, from + H), [1, 0, 2, 3]));
      });
      assert.equal(stepsOf(exchanged.compiled, 'transpose'), 0);
      assert.deepEqual(exchanged.o, apart.o);
      await executor.close();
    });
  }

test('a language model in training copies no slice but that of the values, which backward reads', async () => {
  const model = toyLM();
  await using session = await compile(model, {
    loss: crossEntropy,
    optimizer: adamW({ lr: 0.01 }),
    device: 'reference',
  });
  const layers = model.blocks.length,
    { program } = compileGraph(session.trainGraph(toyBatch(0)));
  assert.equal(program.steps.filter((s) => s.ops.includes('slice')).length, layers);
});
