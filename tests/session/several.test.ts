// Several sessions at the same time, of one model or of several, in one thread or in worker threads: each computes the
// same as alone, and close frees its threads and files.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { platform } from 'node:os';
import { test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { crossEntropy } from '../../src/nn/loss.ts';
import { adamW } from '../../src/optim/adam.ts';
import { generate } from '../../src/session/generate.ts';
import { compile } from '../../src/session/node.ts';
import type { Session } from '../../src/session/session.ts';
import { fingerprint, noCompiler, toyBatch, toyLM } from '../support/toy.ts';

const DEVICES = (['native', 'wasm'] as const).filter((device) => device === 'wasm' || !noCompiler);

test(
  'concurrent sessions of one model: each has the same losses, states and generated tokens as alone',
  { timeout: 100_000 },
  async () => {
    const model = toyLM({ dropout: 0.1 }),
      kinds = DEVICES.flatMap((device) => [1, 2].map((seed) => ({ device, seed, threads: seed })));
    const open = ({ device, seed, threads }: (typeof kinds)[number]): Promise<Session> =>
      compile(model, { loss: crossEntropy, optimizer: adamW({ lr: 1e-2 }), device, seed, threads });
    const work = async (session: Session): Promise<unknown> => {
      const losses: number[] = [],
        text: number[] = [];
      for (let i = 0; i < 5; i++) {
        losses.push(
          (await session.step(toyBatch(i))).loss,
          Number((await session.forward(toyBatch(9)))['loss'].data[0]),
        );
        for await (const token of generate(session, [i], { tokens: 3, seed: i })) text.push(token);
      }
      return { losses, text, states: fingerprint(session) };
    };
    const alone: unknown[] = [];
    for (const kind of kinds) {
      await using session = await open(kind);
      alone.push(await work(session));
    }
    const sessions = await Promise.all(kinds.map(open));
    assert.deepEqual(await Promise.all(sessions.map(work)), alone);
    await Promise.all(sessions.map((s) => s.close()));
  },
);

for (const device of DEVICES) {
  test(
    `${device}: concurrent sessions in worker threads that are terminated in the middle of a step, twice`,
    { timeout: 200_000 },
    async () => {
      const want: number[][] = [];
      for (const seed of [1, 2, 3]) {
        await using session = await compile(toyLM(), {
          loss: crossEntropy,
          optimizer: adamW({ lr: 1e-2 }),
          device,
          threads: 2,
          seed,
        });
        const losses: number[] = [];
        for (let i = 0; i < 4; i++) losses.push((await session.step(toyBatch(i))).loss);
        want.push(losses);
      }
      await using ownSession = await compile(toyLM(), {
        loss: crossEntropy,
        optimizer: adamW({ lr: 1e-2 }),
        device,
        threads: 2,
        seed: 1,
      });
      for (let round = 0; round < 2; round++) {
        const workers = [1, 2, 3].map(
          (seed) => new Worker(new URL('in-worker.ts', import.meta.url), { workerData: { device, seed } }),
        );
        const lossesOfWorkers = Promise.all(
          workers.map(async (worker) => {
            const [losses] = (await Promise.race([
              once(worker, 'message'),
              once(worker, 'error').then(([error]) => {
                throw error as Error;
              }),
            ])) as [number[]];
            return losses;
          }),
        );
        // This thread trains at the same time.
        while (ownSession.steps < 4 * (round + 1)) await ownSession.step(toyBatch(ownSession.steps));
        assert.deepEqual(await lossesOfWorkers, want);
        await Promise.all(workers.map((worker) => worker.terminate()));
      }
      assert.equal(ownSession.steps, 8);
    },
  );

  test(
    `${device}: closed sessions hold no threads and no open files`,
    {
      skip: platform() !== 'linux' && 'threads and files are counted in /proc, which only Linux has',
      timeout: 100_000,
    },
    async () => {
      const held = (): [threads: number, files: number] => [
        readdirSync('/proc/self/task').length,
        readdirSync('/proc/self/fd').length,
      ];
      const use = async (): Promise<void> => {
        const session = await compile(toyLM(), {
          loss: crossEntropy,
          optimizer: adamW({ lr: 1e-2 }),
          device,
          threads: 3,
        });
        const steps = [session.step(toyBatch(0)), session.step(toyBatch(1))];
        await session.close();
        assert.deepEqual(
          (await Promise.all(steps)).map((r) => r.step),
          [1, 2],
        );
      };
      for (let i = 0; i < 3; i++) await use();
      // Workers of the wasm device end a short time after they are terminated. settled: waits up to 2 s for that.
      const settled = async (most: readonly number[]): Promise<boolean> => {
        for (let i = 0; i < 100; i++) {
          if (held().every((n, j) => n <= most[j])) return true;
          await new Promise((resolve) => {
            setTimeout(resolve, 20);
          });
        }
        return false;
      };
      await new Promise((resolve) => {
        setTimeout(resolve, 300);
      });
      const before = held();
      for (let i = 0; i < 8; i++) await use();
      assert.ok(await settled(before), `threads and files: ${before.join(', ')} before, ${held().join(', ')} after`);
    },
  );
}
