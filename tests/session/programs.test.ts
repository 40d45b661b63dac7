// The programs of a session: compiled programs are kept up to a limit of bytes, however many batch shapes there are.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MoE } from '../../src/nn/moe/moe.ts';
import { meanSquaredError } from '../../src/nn/loss.ts';
import { sgd } from '../../src/optim/sgd.ts';
import { traceGraph, trainingGraph } from '../../src/pipeline.ts';
import type { Graph } from '../../src/graph/graph.ts';
import { openBackend, type Backend } from '../../src/session/backend.ts';
import { node, NOW } from '../../src/session/node.ts';
import { Programs } from '../../src/session/programs.ts';
import { States } from '../../src/session/states.ts';
import { Knobs } from '../../src/trace/knobs.ts';
import { nameParameters } from '../../src/trace/module.ts';
import { call } from '../../src/trace/trace.ts';

const KEPT = 32;

/** Programs of a small layer, by the number of tokens of a batch. */
async function opened(memory: number): Promise<{
  readonly backend: Backend;
  readonly knobs: Knobs;
  readonly programs: Programs;
  readonly family: (tokens: number) => string;
  readonly use: (tokens: number) => Promise<unknown>;
}> {
  const moe = new MoE({ dModel: 4, experts: 2, topK: 1, hidden: 4, capacity: 1 }),
    named = nameParameters(moe),
    knobs = new Knobs(named);
  const backend = await openBackend(node, { device: 'wasm', threads: 1, memory }, NOW);
  const programs = new Programs(
    backend,
    { knobs, state: { number: () => 1 } },
    new States(named, backend.executor, () => 0),
  );
  const graph = (tokens: number) => (): Graph => {
    const type = { dtype: 'float32' as const, shape: [tokens, 4] };
    return trainingGraph(
      traceGraph(named, true, (t) => {
        const loss = meanSquaredError(call(moe, t.input('input', 'x', type)), t.input('input', 'y', type));
        t.output('loss', loss);
        t.output('total', loss);
      }),
      sgd({ lr: 1 }),
      [...named.parameters.keys()],
    );
  };
  const family = (n: number): string => `${n} tokens`;
  return { backend, knobs, programs, family, use: (n) => programs.get(family(n), graph(n)) };
}

test('programs are released by bytes, those that were not used for the longest time first', async () => {
  const MB = 2 ** 20,
    loaded = async (memory: number, tokens: readonly number[]): Promise<readonly boolean[]> => {
      const { backend, programs, family, use } = await opened(memory);
      for (const n of tokens) await use(n);
      const found = tokens.map((n) => programs.has(programs.key(family(n))));
      await backend.executor.close();
      return found;
    };
  const small = Array.from({ length: 20 }, (_, i) => i + 1),
    count = (found: readonly boolean[]): number => found.filter((has) => has).length;
  // A program counts as half a MB and its inputs and outputs; an eighth of the limit is for programs.
  assert.ok(!(await loaded(128 * MB, small)).includes(false), '16 MB hold 20 small programs');
  const some = await loaded(64 * MB, small);
  assert.equal(count(some), 15, '8 MB hold 15 of them');
  assert.deepEqual(some.slice(0, 5), [false, false, false, false, false]);
  // 2.5 MB each: six of them leave room for one small program.
  const large = [1, 2, 3, 4, 5, 6].map((n) => 65_536 + n);
  assert.equal(count(await loaded(128 * MB, [...small, ...large])), 7, 'large programs displace more of them');
  assert.equal(count(await loaded(16 * MB, small)), 4, 'the last four stay in any case');
});

test('resized programs are derived only for the 32 families that were used most recently', async () => {
  const { backend, knobs, programs, family, use } = await opened(256e6);
  const resized = (n: number): boolean =>
    knobs.with([{ path: '', knob: 'capacity', from: 1, to: 2 }], () => {
      const started = programs.beginResized(family(n)) !== null;
      programs.drop(programs.key(family(n)));
      return started;
    });
  for (let n = 1; n <= KEPT; n++) await use(n);
  await use(1);
  for (let n = KEPT + 1; n <= KEPT + 8; n++) await use(n);
  assert.deepEqual(
    [1, 2, 9, 10, KEPT + 8].map(resized),
    [true, false, false, true, true],
    'the families that were not used for the longest time are forgotten',
  );
  await backend.executor.close();
});
