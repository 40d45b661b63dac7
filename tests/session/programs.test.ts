// The programs of a session: the number of compiled programs that are kept has a limit, however many batch shapes there
// are.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MoE } from '../../src/nn/moe/moe.ts';
import { meanSquaredError } from '../../src/nn/loss.ts';
import { sgd } from '../../src/optim/sgd.ts';
import { traceGraph, trainingGraph } from '../../src/pipeline.ts';
import type { Graph } from '../../src/graph/graph.ts';
import { openBackend } from '../../src/session/backend.ts';
import { node } from '../../src/session/node.ts';
import { Programs } from '../../src/session/programs.ts';
import { States } from '../../src/session/states.ts';
import { Knobs } from '../../src/trace/knobs.ts';
import { nameParameters } from '../../src/trace/module.ts';
import { call } from '../../src/trace/trace.ts';

const KEPT = 32;

test('resized programs are derived only for the 32 families that were used most recently', async () => {
  const moe = new MoE({ dModel: 4, experts: 2, topK: 1, hidden: 4, capacity: 1 }),
    named = nameParameters(moe),
    knobs = new Knobs(named);
  const backend = await openBackend(node, { device: 'wasm', threads: 1, memory: 64e6 });
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
  const family = (n: number): string => `${n} tokens`,
    use = (n: number): Promise<unknown> => programs.get(family(n), graph(n));
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
