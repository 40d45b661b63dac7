// Sessions without an optimiser keep weights in panels. Their results have the bits of sessions that keep rows, and
// hosts and checkpoints see the logical value.
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import type { TypedArray } from '../../src/base/dtype.ts';
import { UserError, VerifyError } from '../../src/base/errors.ts';
import { Stream } from '../../src/base/random.ts';
import { hostTensor, type HostTensor } from '../../src/base/tensor.ts';
import type { Device } from '../../src/device/device.ts';
import { NativeDevice } from '../../src/device/native/native.ts';
import { compile, generate, loss, nn, ops, optim, Parameter, type Session, type Tensor } from '../../src/node.ts';
import { panelsOf } from '../../src/passes/panels.ts';
import { compileGraph, loadProgram, newMemo } from '../../src/pipeline.ts';
import { ProgramExecutor } from '../../src/run/program.ts';
import { NATIVE } from '../../src/schedule/target.ts';
import { use, type Trace } from '../../src/trace/trace.ts';
import { Interpreter } from '../interpreter/device.ts';
import { fingerprint, noCompiler } from '../support/toy.ts';
import { WrappedDevice } from '../support/wrapped-device.ts';

const options = { skip: noCompiler };
const native = noCompiler ? null : await NativeDevice.open(2);
after(() => native?.close());
/** Columns of a panel on this machine. */
const WIDTH = native?.target.limits.panels?.width ?? 32;

const bytes = (data: TypedArray): string =>
  Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString('base64');
const stream = new Stream(11, 'panels');
let drawn = 0;
const floats = (...shape: number[]): HostTensor =>
  hostTensor(
    'float32',
    shape,
    Float32Array.from({ length: shape.reduce((n, d) => n * d, 1) }, () => stream.uniform(0, drawn++) - 0.5),
  );
const layoutOf = (session: Session, name: string): string | undefined =>
  session.states().find((s) => s.name === name)?.layout;

interface Opened {
  readonly rows: Session;
  readonly panels: Session;
  [Symbol.asyncDispose](): Promise<void>;
}
/** A session whose weights lie in rows, because it has an optimiser, and one whose weights may lie in panels. */
async function both(model: () => object, threads = 2): Promise<Opened> {
  const given = { loss: loss.crossEntropy, device: 'native', threads, seed: 3, say: () => undefined } as const,
    make = (more: object): Promise<Session> => compile(model() as nn.TransformerLM, { ...given, ...more }),
    rows = await make({ optimizer: optim.sgd({ lr: 0.1 }) }),
    panels = await make({});
  return {
    rows,
    panels,
    async [Symbol.asyncDispose]() {
      await rows.close();
      await panels.close();
    },
  };
}

test('products of any size have the bits of rows', options, async () => {
  const sizes = [
    [1, 3 * WIDTH],
    [5, 4 * WIDTH - 7],
    [48, 6 * WIDTH],
    [400, 8 * WIDTH - 3],
    [385, 16 * WIDTH - 1],
    [1024, 11 * WIDTH],
  ];
  for (const [k, n] of sizes)
    for (const threads of [1, 2]) {
      await using sessions = await both(() => new nn.Linear(k, n), threads);
      for (const rows of [1, 3, 7, 14, 40]) {
        const x = floats(rows, k),
          [want, got] = [await sessions.rows.predict(x), await sessions.panels.predict(x)];
        assert.equal(bytes(got.data), bytes(want.data), `${rows} rows times [${k}, ${n}], ${threads} threads`);
      }
      assert.equal(layoutOf(sessions.panels, 'weight'), 'panels', `[${k}, ${n}]`);
      assert.equal(layoutOf(sessions.rows, 'weight'), 'rows');
      assert.deepEqual(fingerprint(sessions.panels), fingerprint(sessions.rows));
    }
});

const CONTEXT = 24;
const languageModel = (): nn.TransformerLM =>
  new nn.TransformerLM({
    vocab: 3 * WIDTH,
    dModel: 2 * WIDTH,
    layers: 2,
    heads: 2,
    context: CONTEXT,
    moe: { experts: 5, topK: 2, hidden: 3 * WIDTH - 2, capacity: 'dropless', activation: 'swiglu' },
  });
const tokens = (): HostTensor =>
  hostTensor(
    'int32',
    [2, CONTEXT],
    Int32Array.from({ length: 2 * CONTEXT }, () => Math.floor(stream.uniform(0, drawn++) * 3 * WIDTH)),
  );

async function writes(session: Session): Promise<number[]> {
  const made: number[] = [];
  for await (const token of generate(session, [1, 2, 3], { tokens: CONTEXT + 4, temperature: 0 })) made.push(token);
  return made;
}

test('a mixture of experts has the bits of rows, a token at a time and in batches', options, async () => {
  for (const threads of [1, 2]) {
    await using sessions = await both(languageModel, threads);
    const batch = { x: tokens(), y: tokens() },
      [want, got] = [await sessions.rows.forward(batch), await sessions.panels.forward(batch)];
    assert.equal(bytes(got['output'].data), bytes(want['output'].data));
    assert.deepEqual(await writes(sessions.panels), await writes(sessions.rows));
    for (const name of ['head.weight', 'blocks.0.attention.qkv.weight', 'blocks.1.moe.experts.w1'])
      assert.equal(layoutOf(sessions.panels, name), 'panels', name);
    // Few columns would fill a small part of a panel; the embedding is gathered.
    for (const name of ['blocks.0.moe.router.weight', 'embedding.weight'])
      assert.equal(layoutOf(sessions.panels, name), 'rows', name);
    assert.deepEqual(fingerprint(sessions.panels), fingerprint(sessions.rows));
  }
});

test('checkpoints hold the logical value, before and after weights lie in panels', options, async () => {
  await using sessions = await both(languageModel);
  const batch = { x: tokens(), y: tokens() },
    { rows, panels } = sessions;
  for (const _ of [0, 1]) {
    await rows.step(batch);
    await panels.deserialize(await rows.serialize());
    assert.deepEqual(fingerprint(panels), fingerprint(rows));
    assert.equal(bytes((await panels.predict(batch.x)).data), bytes((await rows.predict(batch.x)).data));
  }
  await using other = await compile(languageModel(), { loss: loss.crossEntropy, device: 'wasm', seed: 4 });
  await other.deserialize(await panels.serialize());
  assert.deepEqual(fingerprint(other), fingerprint(rows));
});

test(
  'programs that read weights in other ways have the bits of rows; one that changes them is refused',
  options,
  async () => {
    class Model {
      readonly bank = new Parameter([3, 40, 2 * WIDTH], { kind: 'normal', std: 1 });
      forward(x: Tensor): Tensor {
        return ops.matmul(x, use(x, this.bank));
      }
    }
    await using sessions = await both(() => new Model());
    const x = floats(3, 5, 40);
    for (const session of [sessions.rows, sessions.panels]) await session.predict(x);
    assert.equal(layoutOf(sessions.panels, 'bank'), 'panels');
    const read = (session: Session): Promise<Record<string, HostTensor>> =>
      session.runGraph(
        'others',
        (t: Trace) => {
          const { bank } = session.model as unknown as Model,
            w = t.parameter(bank),
            rows = t.input('input', 'rows', { dtype: 'int32', shape: [7] }),
            flat = ops.reshape(w, [120, 2 * WIDTH]);
          t.output('same', w);
          t.output('flat', ops.mul(flat, 2));
          t.output('gathered', ops.gather(flat, rows));
          t.output('part', ops.matmul(t.input('input', 'a', x), ops.slice(w, 2, 3, WIDTH + 4)));
          t.output('transposed', ops.matmul(w, w, { transB: true }));
          t.output('softmax', ops.softmax(w));
        },
        { rows: Int32Array.of(0, 119, 7, 40, 39, 80, 1), a: x.data },
      );
    const [want, got] = [await read(sessions.rows), await read(sessions.panels)];
    for (const name of Object.keys(want)) assert.equal(bytes(got[name].data), bytes(want[name].data), name);
    await assert.rejects(
      sessions.panels.runGraph(
        'changes',
        (t) => {
          const w = t.parameter((sessions.panels.model as unknown as Model).bank);
          t.update(w, ops.mul(w, 2));
        },
        {},
      ),
      (e) => e instanceof UserError && /^state bank lies in panels/.test(e.message),
    );
  },
);

test('a weight whose first program reads it in another way stays in rows', options, async () => {
  await using session = await compile(new nn.Linear(8, 2 * WIDTH), {
    loss: loss.crossEntropy,
    device: 'native',
    threads: 1,
  });
  await session.runGraph(
    'look',
    (t) => {
      t.output('w', t.parameter((session.model as unknown as nn.Linear).weight));
    },
    {},
  );
  await session.predict(floats(3, 8));
  assert.equal(layoutOf(session, 'weight'), 'rows');
});

/** The evaluation graph of a layer, and a value for its weight. */
async function layer(k: number, n: number) {
  await using session = await compile(new nn.Linear(k, n), {
    loss: (y) => ops.sum(y),
    device: 'reference',
  });
  return session.evaluationGraph({ x: floats(9, k), y: floats(1) });
}

test('a state in panels is read and written in parts', options, async () => {
  if (!native) return;
  const executor = new ProgramExecutor(new Kept(native)),
    [k, n] = [23, 3 * WIDTH - 5],
    compiled = compileGraph(await layer(k, n), native.target, newMemo(true)),
    want = floats(k, n).data as Float32Array;
  executor.setState('weight', { dtype: 'float32', shape: [k, n] }, want);
  executor.setState('bias', { dtype: 'float32', shape: [n] }, null);
  const loaded = await loadProgram(executor, compiled);
  assert.equal(executor.layoutOf('weight'), 'panels');
  for (let i = 0; i < 200; i++) {
    const at = Math.floor(stream.uniform(1, drawn++) * k * n),
      count = 1 + Math.floor(stream.uniform(1, drawn++) * (k * n - at));
    const [part] = await executor.getParts([{ name: 'weight', at, count }]);
    assert.equal(bytes(part), bytes(want.subarray(at, at + count)), `elements ${at} to ${at + count}`);
    const fresh = floats(count).data;
    want.set(fresh, at);
    executor.setPart('weight', at, fresh);
    assert.equal(bytes(executor.peekState('weight').data), bytes(want));
  }
  assert.throws(() => executor.setPart('weight', k * n, Float32Array.of(1)), /no part of float32/);
  await assert.rejects(executor.getParts([{ name: 'weight', at: k * n - 1, count: 2 }]), /no part of float32/);
  executor.setState('weight', { dtype: 'float32', shape: [k, n] }, null);
  assert.ok(executor.peekState('weight').data.every((x: number) => x === 0));
  // While a program is loaded that finds the weight in panels, none that expects rows is.
  const other = compileGraph(await layer(k, n), native.target);
  await assert.rejects(
    loadProgram(executor, other),
    (e) => e instanceof VerifyError && /state weight lies in panels, a program expects it in rows/.test(e.message),
  );
  executor.release(loaded);
  await loadProgram(executor, other);
  assert.equal(executor.layoutOf('weight'), 'rows');
  await executor.close();
});

/** A device that stays open when its executor is closed, with panels of another width. */
class Kept extends WrappedDevice {
  readonly #width: number;
  constructor(device: Device, width = WIDTH) {
    super(device);
    this.#width = width;
  }
  override get target(): Device['target'] {
    const { target } = this.device;
    return { ...target, limits: { ...target.limits, panels: panelsOf(this.#width) } };
  }
  override close(): Promise<void> {
    return Promise.resolve();
  }
}

test('panels of any width have the same bits, also where kernels are interpreted', options, async () => {
  if (!native) return;
  const [k, n] = [5, 4 * WIDTH],
    graph = await layer(k, n),
    [x, weight, bias] = [floats(9, k).data, floats(k, n).data, floats(n).data];
  const results = new Map<string, string>();
  for (const [name, device, inPanels] of [
    ['rows', new Kept(native), false],
    ['panels', new Kept(native), true],
    ['wide panels', new Kept(native, 2 * WIDTH), true],
    ['interpreted', new Kept(new Interpreter(NATIVE), 4), true],
  ] as const) {
    const executor = new ProgramExecutor(device),
      compiled = compileGraph(graph, device.target, newMemo(inPanels));
    executor.setState('weight', { dtype: 'float32', shape: [k, n] }, weight);
    executor.setState('bias', { dtype: 'float32', shape: [n] }, bias);
    const loaded = await loadProgram(executor, compiled);
    assert.equal(executor.layoutOf('weight'), inPanels ? 'panels' : 'rows');
    const { output } = await executor.run(loaded, { x, y: Float32Array.of(0) });
    results.set(name, bytes(output.data));
    await executor.close();
  }
  for (const [name, found] of results) assert.equal(found, results.get('rows'), name);
});
