// Basic guarantees of a session: a failed step changes nothing, results have the same bits for any number of threads,
// programs of different batch shapes share states, and wrong calls give clear errors.
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { UserError } from '../../src/base/errors.ts';
import { hostTensor, type Batch } from '../../src/base/tensor.ts';
import { sqrt } from '../../src/graph/ops/elementwise/sqrt.ts';
import { mul } from '../../src/graph/ops/elementwise/mul.ts';
import { add } from '../../src/graph/ops/elementwise/add.ts';
import { mean } from '../../src/graph/ops/reduce/sum.ts';
import type { Tensor } from '../../src/graph/tensor.ts';
import { Linear } from '../../src/nn/linear.ts';
import { crossEntropy, meanSquaredError } from '../../src/nn/loss.ts';
import { MLP } from '../../src/nn/mlp.ts';
import { Sequential } from '../../src/nn/sequential.ts';
import { adamW } from '../../src/optim/adam.ts';
import { sgd } from '../../src/optim/sgd.ts';
import { compile } from '../../src/session/node.ts';
import { compile as compileWeb } from '../../src/session/web.ts';
import { NonFiniteError, type Model } from '../../src/session/step.ts';
import { nameParameters } from '../../src/trace/module.ts';
import { Parameter } from '../../src/trace/parameter.ts';
import { call, use } from '../../src/trace/trace.ts';
import { says, temporaryFolder } from '../io/folder.ts';
import { peek } from '../support/delayed-device.ts';
import { fingerprint, noCompiler, toyBatch, toyLM } from '../support/toy.ts';

test('losses and states have the same bits with 1, 2 and 3 threads, also with dropout', async () => {
  const run = async (threads: number): Promise<unknown> => {
    await using session = await compile(toyLM({ dropout: 0.2 }), {
      loss: crossEntropy,
      optimizer: adamW({ lr: 1e-2, clip: 1 }),
      threads,
      seed: 3,
    });
    const losses: number[] = [];
    for (let i = 0; i < 12; i++) losses.push((await session.step(toyBatch(i))).loss);
    return { losses, states: fingerprint(session) };
  };
  const one = await run(1);
  assert.deepEqual(await run(2), one);
  assert.deepEqual(await run(3), one);
});

test('losses of native and wasm have equal bits and are within 1e-4 of the float64 reference', async () => {
  const run = async (device: 'native' | 'wasm' | 'reference'): Promise<number[]> => {
    await using session = await compile(toyLM(), { loss: crossEntropy, optimizer: sgd({ lr: 0.1 }), device, seed: 1 });
    const losses: number[] = [];
    for (let i = 0; i < 4; i++) losses.push((await session.step(toyBatch(i))).loss);
    return losses;
  };
  const [wasm, reference] = [await run('wasm'), await run('reference')];
  wasm.forEach((loss, i) => assert.ok(Math.abs(loss - reference[i]) < 1e-4, `step ${i}: ${loss} and ${reference[i]}`));
  if (!noCompiler) assert.deepEqual(await run('native'), wasm);
});

/** A finite loss whose gradient to `root` is infinite at 0; `other` has a finite gradient. */
class RootModel {
  readonly root = new Parameter([3], { kind: 'constant', value: 0 });
  readonly other = new Parameter([3], { kind: 'constant', value: 1 });
  forward(x: Tensor): Tensor {
    return add(mul(x, use(x, this.other)), sqrt(use(x, this.root)));
  }
}

const floats = (rows: number, width: number, value: (i: number) => number): Batch => {
  const data = Float32Array.from({ length: rows * width }, (_, i) => value(i));
  return {
    x: hostTensor('float32', [rows, width], data),
    y: hostTensor(
      'float32',
      [rows, width],
      data.map((v) => v + 1),
    ),
  };
};

for (const device of ['native', 'wasm', 'reference'] as const) {
  const skipHere = device === 'native' ? noCompiler : false;
  test(
    `${device}: a step with a finite loss and an infinite gradient changes nothing`,
    { skip: skipHere },
    async () => {
      await using session = await compile(new RootModel(), {
        loss: meanSquaredError,
        optimizer: adamW({ lr: 0.1 }),
        device,
      });
      await session.prepare(floats(2, 3, (i) => i));
      const before = fingerprint(session);
      await assert.rejects(session.step(floats(2, 3, (i) => i)), (error: unknown) => {
        assert.ok(error instanceof NonFiniteError);
        assert.match(error.message, /step 1: the gradient is not finite; first produced by .*(sqrt|div)/);
        return true;
      });
      assert.deepEqual(fingerprint(session), before);
      assert.equal(session.steps, 0);
    },
  );

  test(
    `${device}: a step whose loss is NaN changes nothing, and the next step is as without it`,
    { skip: skipHere },
    async () => {
      const make = () =>
        compile(new MLP([3, 5, 3]), { loss: meanSquaredError, optimizer: sgd({ lr: 0.1, momentum: 0.9 }), device });
      await using session = await make(),
        other = await make();
      const good = floats(2, 3, (i) => i / 5);
      await session.step(good);
      const before = fingerprint(session);
      await assert.rejects(session.step(floats(2, 3, (i) => (i === 4 ? NaN : i))), NonFiniteError);
      assert.deepEqual(fingerprint(session), before);
      await session.step(good);
      await other.step(good);
      await other.step(good);
      assert.deepEqual(fingerprint(session), fingerprint(other));
    },
  );
}

test('a step with micro-batches equals a step of the whole batch, up to rounding', async () => {
  const run = async (accumulate: number): Promise<number[]> => {
    await using session = await compile(new MLP([3, 8, 3]), {
      loss: meanSquaredError,
      optimizer: adamW({ lr: 0.05, clip: 0.5 }),
      accumulate,
    });
    for (let i = 0; i < 3; i++) await session.step(floats(8, 3, (j) => Math.sin(i + j)));
    return session
      .states()
      .filter((s) => !s.name.startsWith('optim/'))
      .flatMap(({ read }) => Array.from(peek(read).data));
  };
  const [whole, parts] = [await run(1), await run(4)];
  whole.forEach((v, i) => assert.ok(Math.abs(v - parts[i]) < 1e-5, `${v} and ${parts[i]}`));
});

test('a failed micro-batch leaves no partial sum of gradients', async () => {
  const make = () =>
    compile(new MLP([3, 4, 3]), { loss: meanSquaredError, optimizer: sgd({ lr: 0.1 }), accumulate: 2 });
  await using session = await make(),
    other = await make();
  const good = floats(4, 3, (i) => i / 7);
  await assert.rejects(session.step(floats(4, 3, (i) => (i === 11 ? Infinity : i))), NonFiniteError);
  await session.step(good);
  await other.step(good);
  assert.deepEqual(fingerprint(session), fingerprint(other));
});

test('an eager optimiser gives the same bits', async () => {
  const run = async (eager: boolean): Promise<unknown> => {
    await using session = await compile(toyLM({ tied: true }), {
      loss: crossEntropy,
      optimizer: adamW({ lr: 1e-2, eager }),
    });
    for (let i = 0; i < 5; i++) await session.step(toyBatch(i));
    return fingerprint(session);
  };
  assert.deepEqual(await run(true), await run(false));
});

test('after the arena has grown for a larger program, the smaller one still computes the same', async () => {
  await using session = await compile(toyLM(), { loss: crossEntropy, optimizer: sgd({ lr: 0.1 }) });
  await using other = await compile(toyLM(), { loss: crossEntropy, optimizer: sgd({ lr: 0.1 }) });
  await session.step(toyBatch(0, 1));
  await session.forward(toyBatch(1, 9));
  const [a, b] = [await session.step(toyBatch(2, 1)), await session.forward(toyBatch(1, 9))];
  await other.step(toyBatch(0, 1));
  assert.equal((await other.step(toyBatch(2, 1))).loss, a.loss);
  assert.equal((await other.forward(toyBatch(1, 9)))['loss'].data[0], b['loss'].data[0]);
});

test('after save and load, the next step has the same bits', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'dynamoe-'));
  t.after(() => rm(folder, { recursive: true }));
  const make = () => compile(toyLM({ dropout: 0.1 }), { loss: crossEntropy, optimizer: adamW({ lr: 1e-2 }), seed: 4 });
  await using session = await make(),
    other = await make();
  for (let i = 0; i < 3; i++) await session.step(toyBatch(i));
  await session.save(join(folder, 'model.safetensors'));
  await other.load(join(folder, 'model.safetensors'));
  assert.equal(other.steps, 3);
  assert.equal((await other.step(toyBatch(3))).loss, (await session.step(toyBatch(3))).loss);
  assert.deepEqual(fingerprint(other), fingerprint(session));
  await using wrong = await compile(toyLM({ experts: 2 }), { loss: crossEntropy });
  await assert.rejects(wrong.load(join(folder, 'model.safetensors')), /model.safetensors has shape/);
});

test('the event loop is not blocked while a step runs', async () => {
  await using session = await compile(new MLP([256, 1024, 256]), {
    loss: meanSquaredError,
    optimizer: sgd({ lr: 0.1 }),
  });
  const batch = floats(256, 256, (i) => Math.sin(i));
  await session.step(batch);
  let turns = 0,
    done = false;
  const count = (): void => {
    turns++;
    if (!done) setImmediate(count);
  };
  const step = session.step(batch).then(() => {
    done = true;
  });
  setImmediate(count);
  await step;
  assert.ok(turns > 3, `${turns} turns during a step`);
});

test('calls that are not awaited run in order', async () => {
  await using session = await compile(toyLM(), { loss: crossEntropy, optimizer: sgd({ lr: 0.1 }) });
  const results = await Promise.all([0, 1, 2, 3].map((i) => session.step(toyBatch(i))));
  assert.deepEqual(
    results.map((r) => r.step),
    [1, 2, 3, 4],
  );
});

test('a module that is used twice gets the gradients of both uses', async () => {
  class Twice implements Model {
    readonly layer = new Linear(3, 3);
    forward(x: Tensor): Tensor {
      return call(this.layer, call(this.layer, x));
    }
  }
  const run = async (device: 'auto' | 'reference'): Promise<number[]> => {
    await using session = await compile(new Twice(), {
      loss: meanSquaredError,
      optimizer: sgd({ lr: 0.05, momentum: 0.5, nesterov: true }),
      device,
    });
    for (let i = 0; i < 3; i++) await session.step(floats(4, 3, (j) => Math.cos(i * 2 + j)));
    return session
      .states()
      .filter((s) => s.name.startsWith('layer'))
      .flatMap(({ read }) => Array.from(peek(read).data));
  };
  const [auto, reference] = [await run('auto'), await run('reference')];
  auto.forEach((v, i) => assert.ok(Math.abs(v - reference[i]) < 1e-5));
});

test('a model that exceeds the memory limit is refused; the error has the bytes and the largest tensors', async () => {
  await using session = await compile(new MLP([64, 4096, 64]), {
    loss: meanSquaredError,
    optimizer: adamW({ lr: 1 }),
    memory: 3 << 20,
  });
  await assert.rejects(session.step(floats(2, 64, (i) => i)), (error: unknown) => {
    assert.ok(error instanceof UserError);
    assert.match(error.message, /needs .*MiB.*\(\d+ bytes\).*3\.00 MiB are available/s);
    assert.match(error.message, /layers\.0\.weight float32\[64, 4096\]/);
    return true;
  });
  assert.deepEqual(session.executor.stateNames(), []);
});

test('the wasm device refuses a model of more than 4 GiB and names its 32-bit addresses as the reason', async () => {
  await using session = await compile(new MLP([1 << 15, 1 << 15]), {
    loss: meanSquaredError,
    optimizer: sgd({ lr: 1 }),
    device: 'wasm',
    memory: 2 ** 40,
  });
  await assert.rejects(session.prepare(floats(1, 1 << 15, () => 1)), (error: unknown) => {
    assert.ok(error instanceof UserError);
    assert.match(
      error.message,
      /needs .*GiB.*are available \(the wasm device reaches 4 GiB with its 32-bit addresses\)/,
    );
    assert.match(error.message, /hint: .*native device/);
    return true;
  });
  assert.deepEqual(session.executor.stateNames(), []);
});

test('the reference continues from a checkpoint of its own, whose floats are float64', async () => {
  const make = () => compile(toyLM(), { loss: crossEntropy, optimizer: adamW({ lr: 1e-2 }), device: 'reference' });
  await using session = await make(),
    other = await make();
  await session.step(toyBatch(0));
  await other.deserialize(await session.serialize());
  assert.deepEqual(fingerprint(other), fingerprint(session));
  assert.equal((await other.step(toyBatch(1))).loss, (await session.step(toyBatch(1))).loss);
});

test('serialize gives the bytes that save writes', async (t) => {
  const path = join(await temporaryFolder(t), 'a.safetensors'),
    make = () => compile(toyLM(), { loss: crossEntropy, optimizer: adamW({ lr: 1e-2 }), device: 'wasm', threads: 1 });
  await using session = await make(),
    other = await make();
  await session.step(toyBatch(0));
  await session.save(path);
  const bytes = await session.serialize();
  assert.deepEqual(bytes, new Uint8Array(await readFile(path)));
  await other.deserialize(bytes);
  assert.deepEqual(fingerprint(other), fingerprint(session));
  assert.deepEqual((await other.step(toyBatch(1))).loss, (await session.step(toyBatch(1))).loss);
  await assert.rejects(
    other.deserialize(bytes.subarray(0, bytes.length - 1)),
    says('the checkpoint is not a valid safetensors file'),
  );
  await using web = await compileWeb(toyLM(), { loss: crossEntropy });
  await assert.rejects(web.save(path), says('session.save', 'no files', 'session.serialize'));
  await assert.rejects(
    compileWeb(toyLM(), { loss: crossEntropy, device: 'native' }),
    says('the native device exists only in Node'),
  );
});

test('mistakes in a model give clear errors', async () => {
  const stray = new Parameter([3], { kind: 'constant', value: 1 });
  await using closure = await compile(
    { forward: (x: Tensor) => mul(x, use(x, stray)) },
    { loss: meanSquaredError, optimizer: sgd({ lr: 1 }) },
  );
  await assert.rejects(closure.step(floats(1, 3, () => 1)), /not stored in a property of the model/);
  await using shape = await compile(new MLP([4, 2]), { loss: meanSquaredError, optimizer: sgd({ lr: 1 }) });
  await assert.rejects(shape.step(floats(1, 3, () => 1)), /matmul: inner dimensions differ.*layers\.0/s);
  const still = new MLP([3, 3]);
  for (const p of nameParameters(still).parameters.values()) p.frozen = true;
  await using frozen = await compile(still, { loss: meanSquaredError, optimizer: sgd({ lr: 1 }) });
  await assert.rejects(frozen.step(floats(1, 3, () => 1)), /UserError.*there is nothing to train.*frozen/s);
  await using vector = await compile(new MLP([3, 3]), { loss: (a) => mean(a, [1]), optimizer: sgd({ lr: 1 }) });
  await assert.rejects(vector.step(floats(2, 3, () => 1)), /the loss must be one number/);
  await assert.rejects(
    compile(new MLP([1, 1]), { loss: meanSquaredError, device: 'gpu' as never }),
    /no device named gpu/,
  );
  await assert.rejects(compile(new MLP([1, 1]), { loss: meanSquaredError, threads: 0 }), /threads must be/);
});

test('calls that TypeScript would refuse give clear errors, too', async () => {
  const options = { loss: meanSquaredError, optimizer: sgd({ lr: 1 }) },
    good = floats(1, 3, () => 1);
  await assert.rejects(compile(undefined as never, options), /UserError.*no function forward/s);
  await assert.rejects(compile(new Linear(3, 3), undefined as never), /UserError.*there is no loss/s);
  assert.throws(
    () => new Linear(3, undefined as never),
    /UserError.*dimensions must be whole numbers of at least 1, got \[3, undefined\]/s,
  );
  assert.throws(() => hostTensor('float' as never, [1], [1]), /UserError.*no dtype named float/s);
  await using list = await compile({ forward: (x: Tensor) => [x] as never }, options);
  await assert.rejects(list.step(good), /UserError.*must return a tensor, got a list/s);
  await using session = await compile(new Linear(3, 3), options);
  await assert.rejects(session.step({ x: good.x } as never), /UserError.*the batch's y must be a tensor of the host/s);
  await assert.rejects(
    session.step({ x: [[1, 2, 3]], y: good.y } as never),
    /the batch's x must be a tensor of the host .*got a list/s,
  );
  await assert.rejects(
    session.step({ ...good, x: { ...good.x, data: new Float32Array(2) } }),
    /float32 tensor of shape \[1, 3\] has 3 elements, got 2/,
  );
  await assert.rejects(session.step(floats(0, 3, () => 1)), /the batch's x is empty/);
  await assert.rejects(
    session.step({ ...good, x: { ...good.x, data: new Float64Array(3) } }),
    /the batch's x is float32, its data a Float64Array/,
  );
  await assert.rejects(
    compile(new Linear(3, 3), { ...options, optimizer: sgd as never }),
    /UserError.*the optimizer has no function update/s,
  );
  for (const seed of [NaN, -1, 0.5, 2 ** 32, '1' as never]) {
    const refused =
      /UserError.*compile: a seed must be a whole number from 0 to 4294967295, got (NaN|-1|0\.5|string|4294967296)/s;
    await assert.rejects(compile(new Linear(3, 3), { ...options, seed }), refused);
  }
  await assert.rejects(
    compile(new Linear(3, 3), { ...options, accumulate: 0 }),
    /UserError.*accumulate must be a whole number/s,
  );
  await assert.rejects(session.evaluate({} as never), /UserError.*expected batches.*data\.pass/s);
  assert.throws(() => {
    session.recompile({ name: 'r', trigger: () => false, alter: () => undefined }, 'infer' as never);
  }, /UserError.*no work named infer/s);
  assert.throws(
    () => add(good.x as never, good.x as never),
    /UserError.*ops\.add takes tensors of a model that is traced/s,
  );
  assert.throws(() => add(good.x as never, 1), /UserError.*takes tensors of a model that is traced/s);
  await using nothing = await compile({ forward: (x: Tensor) => x }, options);
  await assert.rejects(nothing.step(good), /UserError.*the model has no parameter to train/s);
});

test('options of an optimiser are checked when it is created', () => {
  for (const lr of [NaN, -1, '0.1' as never, undefined as never])
    assert.throws(() => adamW({ lr }), /UserError.*optim\.adamW: lr must be a number of at least 0/s);
  const betas = /UserError.*betas must be two numbers from 0 to below 1, got \[0.9, 2\]/s;
  assert.throws(() => adamW({ lr: 1, betas: [0.9, 2] }), betas);
  assert.throws(() => adamW({ lr: 1, eps: 0 }), /UserError.*eps must be a number above 0/s);
  assert.throws(() => sgd({ lr: 1, momentum: 1 }), /UserError.*momentum/s);
  assert.throws(() => sgd({ lr: 1, weightDecay: -1 }), /UserError.*weightDecay/s);
  assert.equal(sgd({ lr: 0, momentum: 0.9, clip: 1 }).name, 'sgd');
});

test("restore refuses names, dtypes and shapes that are not the model's, and then sets nothing", async () => {
  await using session = await compile(new Linear(2, 1), { loss: meanSquaredError, optimizer: sgd({ lr: 1 }) });
  const before = fingerprint(session),
    weight = { name: 'weight', value: hostTensor('float32', [2, 1], [5, 6]) },
    { value } = weight;
  assert.throws(() => {
    void session.restore(1, [weight, { name: 'wieght', value }]);
  }, /UserError.*no parameter wieght.*it has weight, bias/s);
  assert.throws(() => {
    void session.restore(1, [weight, { name: 'bias', value }]);
  }, /bias: the checkpoint has shape \[2, 1\], the model \[1\]/);
  assert.throws(() => {
    void session.restore(1, [weight, { name: 'bias', value: hostTensor('float64', [1], [0]) }]);
  }, /bias: the checkpoint has dtype float64, the model float32/);
  assert.deepEqual(fingerprint(session), before);
  await session.restore(1, [weight]);
  assert.deepEqual([...peek(() => session.states()[0].read()).data], [5, 6]);
});

test('a step whose learning rate is NaN is refused and changes nothing', async () => {
  const schedule = (step: number): number => (step === 1 ? Number('1e-3x') : 0.1),
    batch = floats(1, 3, (i) => i);
  await using session = await compile(new Linear(3, 3), { loss: meanSquaredError, optimizer: sgd({ lr: schedule }) });
  await session.step(batch);
  const before = fingerprint(session);
  await assert.rejects(
    session.step(batch),
    /the learning rate of step 2 must be a finite number of at least 0, got NaN/,
  );
  assert.deepEqual(fingerprint(session), before);
});

test('a forward that returns a tensor of another trace is refused', async () => {
  let kept: Tensor | null = null;
  await using session = await compile({ forward: (x: Tensor) => (kept ??= x) }, { loss: meanSquaredError });
  await session.predict(floats(1, 3, () => 1).x);
  await assert.rejects(session.predict(floats(2, 3, () => 1).x), /belongs to another trace/);
});

test('a shape error in nested modules names the line of the user that called them', async () => {
  const nested = (deep: number): Model => (deep === 0 ? new Linear(4, 4) : new Sequential(nested(deep - 1))),
    inner = nested(6);
  const outer = { inner, forward: (x: Tensor) => call(inner, x) };
  await using session = await compile(outer, { loss: meanSquaredError });
  await assert.rejects(
    session.predict(floats(1, 3, () => 1).x),
    (e: Error) =>
      /matmul\(float32\[1, 3\], float32\[4, 4\]\), in inner\.layers.*, .*session\.test\.ts:\d+/.test(e.message) &&
      !/anonymous>\)/.test(e.message),
  );
});

for (const device of ['native', 'wasm', 'reference'] as const) {
  test(
    `${device}: a closed session refuses later calls; close may be called again`,
    { skip: device === 'native' && noCompiler },
    async () => {
      const session = await compile(new Linear(3, 3), { loss: meanSquaredError, optimizer: sgd({ lr: 0.1 }), device }),
        batch = floats(1, 3, () => 1);
      const called = session.step(batch),
        closing = session.close();
      await assert.rejects(session.step(batch), /UserError.*this session is closed/s);
      assert.equal((await called).step, 1);
      await closing;
      await session.close();
      await assert.rejects(session.predict(batch.x), /UserError.*this session is closed/s);
      assert.throws(() => session.states(), /this session is closed/);
    },
  );
}
