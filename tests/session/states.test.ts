// A state is identified by its name and has one dtype and one shape. Every device refuses another dtype or shape under
// the same name, and overwrites nothing. Names of caches contain their sizes.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { hostArray, type DType } from '../../src/base/dtype.ts';
import { hostTensor } from '../../src/base/tensor.ts';
import { ops as table } from '../../src/graph/ops/index.ts';
import { GraphBuilder } from '../../src/graph/builder.ts';
import type { Graph } from '../../src/graph/graph.ts';
import { roleOf } from '../../src/graph/state.ts';
import type { Tensor } from '../../src/graph/tensor.ts';
import { add } from '../../src/graph/ops/elementwise/add.ts';
import { crossEntropy, meanSquaredError } from '../../src/nn/loss.ts';
import { BatchNorm } from '../../src/nn/batchNorm.ts';
import { Linear } from '../../src/nn/linear.ts';
import { MoE } from '../../src/nn/moe/moe.ts';
import type { TransformerLM } from '../../src/nn/transformer.ts';
import { adamW } from '../../src/optim/adam.ts';
import { sgd } from '../../src/optim/sgd.ts';
import { compileGraph, loadProgram } from '../../src/pipeline.ts';
import { NativeDevice } from '../../src/device/native/native.ts';
import { WasmDevice } from '../../src/device/wasm/wasm.ts';
import type { Executor, Runnable } from '../../src/run/executor.ts';
import { ProgramExecutor } from '../../src/run/program.ts';
import { ReferenceExecutor } from '../../src/run/reference.ts';
import { compile } from '../../src/session/node.ts';
import type { Session } from '../../src/session/session.ts';
import { call } from '../../src/trace/trace.ts';
import { opened, peek } from '../support/delayed-device.ts';
import { fingerprint, noCompiler, toyBatch, toyLM } from '../support/toy.ts';

const DEVICES = ['native', 'wasm', 'reference'] as const;

async function executorOn(
  device: (typeof DEVICES)[number],
): Promise<{ executor: Executor; load(graph: Graph): Promise<Runnable> }> {
  if (device === 'reference') {
    const executor = new ReferenceExecutor();
    return { executor, load: (graph) => Promise.resolve(executor.load(graph)) };
  }
  const executor = new ProgramExecutor(
    opened(device === 'native' ? await NativeDevice.open(1) : await WasmDevice.open(1, { memory: 1e6 })),
  );
  return { executor, load: (graph) => loadProgram(executor, compileGraph(graph, executor.device.target)) };
}

/** The graph of w = w + 1, which also outputs the new value. */
function increment(dtype: DType, shape: readonly number[]): Graph {
  const b = new GraphBuilder(table),
    w = b.newState('w', { dtype, shape }),
    next = add(w, 1);
  b.update(w, next);
  b.output('y', next);
  return b.build();
}

for (const device of DEVICES) {
  const skip = device === 'native' && noCompiler;

  test(
    `${device}: a program that expects another type of a state is refused with the state's name`,
    { skip },
    async () => {
      const { executor, load } = await executorOn(device);
      executor.setState('w', { dtype: 'float32', shape: [2, 3] }, Float32Array.of(1, 2, 3, 4, 5, 6));
      executor.setState('neighbour', { dtype: 'float32', shape: [1000] }, new Float32Array(1000).fill(7));
      for (const [dtype, shape] of [
        ['float32', [64, 3]],
        ['float32', [3, 2]],
        ['float32', [6]],
        ['int32', [2, 3]],
        ['float32', [2, 3, 1]],
      ] as const) {
        await assert.rejects(
          async () => executor.run(await load(increment(dtype, shape)), {}),
          /UserError: state w is float32\[2, 3\], not (float|int)32\[.*hint: a state of another dtype.* another name/s,
        );
        assert.throws(() => {
          executor.setState('w', { dtype, shape }, null);
        }, /UserError: state w is float32\[2, 3\], not/);
        assert.throws(() => {
          executor.setState(
            'w',
            { dtype, shape },
            hostArray(
              dtype,
              shape.reduce((a: number, b) => a * b, 1),
            ),
          );
        }, /state w is float32\[2, 3\], not/);
      }
      assert.throws(() => {
        executor.setState('w', { dtype: 'float32', shape: [2, 3] }, new Float32Array(5));
      }, /UserError.*w: expected float32\[2, 3\]/s);
      assert.deepEqual([...peek(() => executor.peekState('w')).data], [1, 2, 3, 4, 5, 6]);
      await executor.run(await load(increment('float32', [2, 3])), {});
      assert.deepEqual([...peek(() => executor.peekState('w')).data], [2, 3, 4, 5, 6, 7]);
      assert.ok(peek(() => executor.peekState('neighbour')).data.every((v) => v === 7));
      await executor.close();
      assert.throws(() => executor.peekState('w'), /UserError.*closed/s);
    },
  );

  test(`${device}: one model runs with caches of several batch sizes`, { skip }, async () => {
    await using session = await compile(toyLM(), {
      loss: crossEntropy,
      optimizer: sgd({ lr: 0.1 }),
      device,
      threads: 1,
      seed: 2,
    });
    await session.step(toyBatch(0));
    const before = fingerprint(session);
    const next = async (
      rows: number,
      position: number,
      caches?: ReturnType<Session['openCaches']>,
    ): Promise<number[]> => {
      const out = await session.runGraph(
        `cached ${rows}`,
        (t) => {
          t.output(
            'logits',
            call(session.model as TransformerLM, t.input('input', 'tokens', { dtype: 'int32', shape: [rows, 1] }), {
              position: t.scalar('position', 'int32'),
            }),
          );
        },
        {
          tokens: Int32Array.from({ length: rows }, (_, i) => (3 * position + i) % 17),
          position: Int32Array.of(position),
        },
        caches,
      );
      return Array.from(out['logits'].data.subarray(0, 17), Number);
    };
    // The first row of each batch is the same sequence, and runs of batches of 1, 64 and 7 rows alternate.
    const rows: Record<number, number[][]> = { 1: [], 7: [], 64: [] };
    for (let position = 0; position < 3; position++) for (const n of [1, 64, 7]) rows[n].push(await next(n, position));
    assert.deepEqual(rows[64], rows[1]);
    assert.deepEqual(rows[7], rows[1]);
    // Caches from openCaches start empty, and runs with them do not change the shared caches.
    const own = session.openCaches();
    assert.deepEqual([await next(1, 0, own), await next(1, 1, own)], rows[1].slice(0, 2));
    assert.deepEqual(await next(1, 2), rows[1][2]);
    const bytes = session.executor.stateBytes();
    assert.ok(own.bytes > 0);
    const held = own.bytes;
    own.close();
    own.close();
    assert.equal(session.executor.stateBytes(), bytes - held);
    await assert.rejects(next(1, 2, own), /UserError.*these caches are closed/s);
    assert.deepEqual(fingerprint(session), before);
  });

  test(
    `${device}: a custom cache with the name of another one and another size is refused with that name`,
    { skip },
    async () => {
      await using session = await compile(new Linear(2, 2), {
        loss: meanSquaredError,
        optimizer: sgd({ lr: 0.1 }),
        device,
        threads: 1,
      });
      const sum = (rows: number, x: number) =>
        session.runGraph(
          `sum ${rows}`,
          (t) => {
            const state = t.state('cache/sum', { dtype: 'float32', shape: [rows] }),
              next = add(state, t.input('input', 'x', { dtype: 'float32', shape: [rows] }));
            t.update(state, next);
            t.output('sum', next);
          },
          { x: new Float32Array(rows).fill(x) },
        );
      assert.deepEqual(Array.from((await sum(2, 1))['sum'].data, Number), [1, 1]);
      await assert.rejects(sum(200, 1), /UserError: state cache\/sum is float32\[2\], not float32\[200\]/);
      assert.deepEqual(Array.from((await sum(2, 2))['sum'].data, Number), [3, 3]);
      await assert.rejects(
        session.runGraph(
          'twice',
          (t) => {
            for (const n of [2, 3]) t.output(`y${n}`, t.state('own', { dtype: 'float32', shape: [n] }));
          },
          {},
        ),
        /UserError: state own is float32\[2\] in this trace, not float32\[3\]/,
      );
    },
  );

  test(
    `${device}: restore refuses a moment of another shape, or of a parameter that does not exist`,
    { skip },
    async () => {
      await using session = await compile(new Linear(2, 3), {
        loss: meanSquaredError,
        optimizer: adamW({ lr: 0.1 }),
        device,
        threads: 1,
      });
      const of = (name: string, ...shape: number[]): Promise<void> => {
        const length = shape.reduce((n, d) => n * d, 1),
          dtype = device === 'reference' ? 'float64' : 'float32';
        return session.restore(3, [{ name, value: hostTensor(dtype, shape, new Array<number>(length).fill(1)) }]);
      };
      const refused: [string, number[], RegExp][] = [
        ['optim/m/weight', [3, 2], /optim\/m\/weight: the checkpoint has shape \[3, 2\], the model \[2, 3\]/],
        ['optim/sum/bias', [2], /optim\/sum\/bias: the checkpoint has shape \[2\], the model \[3\]/],
        ['optim/m/other', [3], /the model has no parameter other \(optim\/m\/other\)/],
      ];
      for (const [name, shape, message] of refused)
        await assert.rejects(async () => of(name, ...shape), { name: 'UserError', message });
      await of('optim/m/weight', 2, 3);
      const x = hostTensor('float32', [1, 2], [1, 2]),
        y = hostTensor('float32', [1, 3], [1, 2, 3]);
      assert.equal((await session.step({ x, y })).step, 4);
    },
  );

  test(
    `${device}: a custom state is saved and loaded under any name, except that of a parameter or moment, which is ` +
      'refused',
    { skip },
    async () => {
      const open = (): Promise<Session> =>
        compile(new Linear(2, 3), { loss: meanSquaredError, optimizer: adamW({ lr: 0.1 }), device, threads: 1 });
      await using session = await open(),
        other = await open();
      const sum = async (of: Session, name: string): Promise<number> => {
        const out = await of.runGraph(
          name,
          (t) => {
            const state = t.state(name, { dtype: 'float32', shape: [] }),
              next = add(state, t.input('input', 'x', { dtype: 'float32', shape: [] }));
            t.update(state, next);
            t.output('sum', next);
          },
          { x: Float32Array.of(1) },
        );
        return Number(out['sum'].data[0]);
      };
      for (const name of ['own', 'my/own', 'bias2']) for (const n of [1, 2]) assert.equal(await sum(session, name), n);
      const bytes = await session.serialize();
      assert.equal(await sum(session, 'own'), 3);
      for (const one of [session, other]) {
        await one.deserialize(bytes);
        for (const name of ['own', 'my/own', 'bias2']) assert.equal(await sum(one, name), 3);
      }
      // In a session that has run nothing yet, the custom state would be created before the parameter.
      for (const name of ['bias', 'optim/m/bias']) {
        await using fresh = await open();
        await assert.rejects(sum(fresh, name), {
          name: 'UserError',
          message: new RegExp(`state ${name} is float32\\[3\\], not float32\\[\\]`),
        });
        assert.equal(
          (await fresh.step({ x: hostTensor('float32', [1, 2], [1, 2]), y: hostTensor('float32', [1, 3], [1, 2, 3]) }))
            .step,
          1,
        );
      }
    },
  );
}

test('every state of a session has a role and a layout', async () => {
  class Mixed {
    readonly norm = new BatchNorm(6);
    readonly moe = new MoE({ dModel: 6, experts: 4, topK: 2, hidden: 5, routing: 'cached', remember: 8 });
    readonly head = new Linear(6, 3, { role: 'head' });
    forward(x: Tensor): Tensor {
      return call(this.head, call(this.moe, call(this.norm, x)));
    }
  }
  await using session = await compile(new Mixed(), {
    loss: meanSquaredError,
    optimizer: sgd({ lr: 0.1, momentum: 0.9 }),
    device: 'wasm',
    accumulate: 2,
  });
  const numbers = (n: number): number[] => Array.from({ length: n }, (_, i) => Math.sin(i)),
    x = hostTensor('float32', [4, 6], numbers(24)),
    y = hostTensor('float32', [4, 3], numbers(12));
  await session.step({ x, y, ids: Int32Array.of(0, 1, 2, 3) });
  const states = session.states(),
    roles = new Map(states.map(({ name, role }) => [name.replace(/\d+x.*/, ''), role]));
  for (const [name, role] of Object.entries({
    'norm.runningMean': 'running',
    'norm.gain': 'gain',
    'norm.bias': 'bias',
    'moe.router.weight': 'router',
    'moe.experts.w1': 'weight',
    'head.weight': 'head',
    'optim/momentum/head.weight': 'moment',
    'optim/sum/moe.experts.w1': 'sum',
    'assigned/choices/moe/': 'choices',
  }))
    assert.equal(roles.get(name), role, `${name} in ${[...roles.keys()].join(', ')}`);
  for (const { name, layout } of states) assert.equal(layout, 'rows', name);
  assert.equal(roleOf('cache/k/attention/1x8'), 'cache');
});
