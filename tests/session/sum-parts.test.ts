// Sums over samples go over eight ranges of samples, joined as a tree (docs/architecture/parts.md). Here the gradients
// of a whole batch are put together by hand: from a run of each range alone, with sums in one part. Checkpoints of
// versions without parts go on with the bits of those versions.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import fc from 'fast-check';
import { Stream } from '../../src/base/random.ts';
import { hostTensor, type Batch, type HostTensor } from '../../src/base/tensor.ts';
import { add } from '../../src/graph/ops/elementwise/add.ts';
import { mul } from '../../src/graph/ops/elementwise/mul.ts';
import { relu } from '../../src/graph/ops/elementwise/relu.ts';
import { sum } from '../../src/graph/ops/reduce/sum.ts';
import { reshape } from '../../src/graph/ops/shape/reshape.ts';
import { transpose } from '../../src/graph/ops/shape/transpose.ts';
import type { Tensor } from '../../src/graph/tensor.ts';
import { boundOf } from '../../src/base/shape.ts';
import { checkpointBytes, decodeCheckpoint } from '../../src/io/checkpoint.ts';
import type { TensorSource } from '../../src/io/safetensors-bytes.ts';
import { Conv2d } from '../../src/nn/conv2d.ts';
import { Embedding } from '../../src/nn/embedding.ts';
import { Linear } from '../../src/nn/linear.ts';
import { crossEntropy } from '../../src/nn/loss.ts';
import { MoE } from '../../src/nn/moe/moe.ts';
import { MultiHeadAttention } from '../../src/nn/multi-head.ts';
import { LayerNorm, RMSNorm } from '../../src/nn/norm.ts';
import { sgd } from '../../src/optim/sgd.ts';
import { compile } from '../../src/session/node.ts';
import type { Session } from '../../src/session/session.ts';
import type { Model } from '../../src/session/step.ts';
import { Parameter } from '../../src/trace/parameter.ts';
import { call, use } from '../../src/trace/trace.ts';
import { noCompiler } from '../support/toy.ts';

const LENGTH = 5,
  WIDTH = 8,
  WORDS = 40;

/** Every kind of shared parameter of a language model, and a bank. */
class Text {
  readonly embedding = new Embedding(WORDS, WIDTH);
  readonly position = new Parameter([LENGTH, WIDTH], { kind: 'normal', std: 1 });
  readonly norm = new LayerNorm(WIDTH);
  readonly attention = new MultiHeadAttention({ dModel: WIDTH, heads: 2 });
  readonly moe = new MoE({ dModel: WIDTH, experts: 3, topK: 2, hidden: 6, losses: {} });
  readonly last = new RMSNorm(WIDTH);
  readonly turned = new Parameter([LENGTH, 1, WIDTH], { kind: 'normal', std: 1 });
  readonly head = new Linear(WIDTH, 7, { bias: true });

  forward(ids: Tensor): Tensor {
    const x = add(call(this.embedding, ids), use(ids, this.position)),
      y = add(x, call(this.attention, call(this.norm, x))),
      [batch, time, width] = y.shape.map(boundOf),
      z = add(y, reshape(call(this.moe, reshape(y, [batch * time, width])), [batch, time, width]));
    // The dimension of the samples is not the first one here.
    const turned = transpose(mul(transpose(z, [1, 0, 2]), use(z, this.turned)), [1, 0, 2]);
    return call(this.head, call(this.last, turned));
  }
}

class Images {
  readonly first = new Conv2d(2, 6, 3);
  readonly channels = new Conv2d(6, 6, 2, { groups: 6 });
  readonly head = new Linear(6 * 9, 3, { bias: true });

  forward(x: Tensor): Tensor {
    const y = relu(call(this.channels, relu(call(this.first, x))));
    return call(this.head, reshape(y, [boundOf(y.shape[0]), 6 * 9]));
  }
}

const images = (count: number): HostTensor =>
  hostTensor('float32', [count, 6, 6, 2], new Stream(2, 'images').normals(0, 1, new Float32Array(count * 72)));
const tokens = (count: number): HostTensor =>
  hostTensor(
    'int32',
    [count, LENGTH],
    Int32Array.from({ length: count * LENGTH }, (_, i) => Math.floor(WORDS * new Stream(1, 'ids').uniform(0, i) ** 2)),
  );

/** Samples `from` to `to`. */
function part({ dtype, shape: [count, ...rest], data }: HostTensor, from: number, to: number): HostTensor {
  const size = data.length / count;
  return hostTensor(dtype, [to - from, ...rest], data.slice(from * size, to * size) as never);
}
const batchOf = (x: HostTensor): Batch => ({ x, y: hostTensor('int32', [x.shape[0]], new Int32Array(x.shape[0])) });

/** The checkpoint as a version without parts would have written it. */
async function withoutParts(bytes: Uint8Array): Promise<Uint8Array> {
  const {
    meta: { parts, ...meta },
    file,
  } = await decodeCheckpoint(bytes, 'the checkpoint');
  assert.equal(parts, 8);
  const tensors: TensorSource[] = [];
  for (const name of file.tensors.keys()) {
    const { data, ...type } = await file.read(name);
    tensors.push({ name, ...type, data: () => Promise.resolve(data) });
  }
  return checkpointBytes({ tensors, meta });
}

/** The gradients of one batch, which the first step leaves in the moments. */
async function gradients(session: Session, from: Uint8Array, x: HostTensor): Promise<Map<string, Float32Array>> {
  await session.deserialize(from);
  await session.step(batchOf(x));
  const found = new Map<string, Float32Array>();
  for (const { name, readAsync } of session.states())
    if (name.startsWith('optim/')) found.set(name.slice('optim/momentum/'.length), (await readAsync()).data as never);
  return found;
}

function joined(pieces: readonly Float32Array[]): Float32Array {
  if (pieces.length === 1) return pieces[0];
  const [a, b] = [0, 1].map((half) =>
    joined(pieces.slice((half * pieces.length) / 2, ((half + 1) * pieces.length) / 2)),
  );
  return a.map((v, i) => v + b[i]);
}

const BANK = /^moe\.experts\./;
const DEVICES = [
  ...(noCompiler ? [] : [['native', 1] as const, ['native', 2] as const]),
  ['wasm', 1] as const,
  ['wasm', 2] as const,
];

const models: readonly [name: string, make: () => Model, data: (count: number) => HostTensor][] = [
  ['a language model', () => new Text(), tokens],
  ['a network for images', () => new Images(), images],
];
for (const [name, make, data] of models)
  test(`gradients of ${name} are those of eight ranges of samples, joined as a tree`, async () => {
    await using stack = new AsyncDisposableStack();
    const sessions: { readonly session: Session; readonly bytes: Uint8Array; readonly old: Uint8Array }[] = [];
    for (const [device, threads] of DEVICES) {
      const loss = (out: Tensor): Tensor => sum(mul(out, out)),
        session = await compile(make(), { loss, optimizer: sgd({ lr: 1, momentum: 0.5 }), device, threads, seed: 4 }),
        bytes = await stack.use(session).serialize();
      sessions.push({ session, bytes, old: await withoutParts(bytes) });
    }
    let moved = 0;
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 27 }), async (count) => {
        const x = data(count),
          all = await Promise.all(sessions.map(({ session, bytes }) => gradients(session, bytes, x)));
        for (const other of all.slice(1)) assert.deepEqual(other, all[0], 'devices and threads agree');
        const { session, old } = sessions[sessions.length - 2], // one thread of WebAssembly compiles fast
          before = await gradients(session, old, x),
          ranges: (Map<string, Float32Array> | null)[] = [];
        for (let p = 0; p < 8; p++) {
          const [from, to] = [p, p + 1].map((q) => Math.floor((count * q) / 8));
          ranges.push(to > from ? await gradients(session, old, part(x, from, to)) : null);
        }
        for (const [parameter, gradient] of all[0]) {
          const pieces = ranges.map((r) => r?.get(parameter) ?? new Float32Array(gradient.length)),
            wanted = BANK.test(parameter) ? before.get(parameter) : joined(pieces);
          assert.deepEqual(gradient, wanted, `${parameter}, ${count} samples`);
          if (wanted && before.get(parameter)?.some((v, i) => v !== wanted[i])) moved++;
        }
      }),
      { numRuns: 4, seed: 1, examples: [[1], [5], [19]], endOnFailure: true },
    );
    assert.ok(moved > 10, `with one part, only ${moved} gradients have other bits`);
  });

/** The model of the checkpoint before-parts.safetensors, which a version without parts wrote after one step. */
class Old {
  readonly inner = new Linear(3, 2);
  readonly moe = new MoE({ dModel: 2, experts: 2, topK: 1, hidden: 2 });
  readonly head = new Linear(2, 3);

  forward(x: Tensor): Tensor {
    return call(this.head, call(this.moe, call(this.inner, x)));
  }
}
const oldBatch = (n: number): Batch => ({
  x: hostTensor(
    'float32',
    [19, 3],
    Float32Array.from({ length: 57 }, (_, i) => Math.sin(3 * i + n)),
  ),
  y: hostTensor(
    'int32',
    [19],
    Int32Array.from({ length: 19 }, (_, i) => (i * i + n) % 3),
  ),
});

test('a checkpoint of a version without parts goes on with the bits of that version', async () => {
  const bytes = readFileSync(new URL('before-parts.safetensors', import.meta.url));
  await using session = await compile(new Old(), {
    loss: crossEntropy,
    optimizer: sgd({ lr: 0.5, momentum: 0.9, clip: 1 }),
    device: 'wasm',
    threads: 1,
  });
  await session.deserialize(bytes);
  assert.equal((await decodeCheckpoint(await session.serialize(), 'the checkpoint')).meta.parts, 1);
  const found: number[][] = [];
  for (let i = 1; i < 5; i++) {
    const { loss, gradNorm } = await session.step(oldBatch(i));
    found.push([loss, gradNorm]);
  }
  assert.deepEqual(found, [
    [1.250613808631897, 0.7331814765930176],
    [1.2901828289031982, 0.7461007237434387],
    [1.0986328125, 0.45532938838005066],
    [1.1063097715377808, 0.4560071527957916],
  ]);
});

test('the number of parts is kept by checkpoints, and is that of a whole checkpoint alone', async () => {
  const open = (): Promise<Session> =>
    compile(new Old(), { loss: crossEntropy, optimizer: sgd({ lr: 0.5 }), device: 'wasm', threads: 1 });
  await using session = await open();
  await using other = await open();
  const partsOf = async (s: Session): Promise<number | undefined> =>
    (await decodeCheckpoint(await s.serialize(), 'the checkpoint')).meta.parts;
  const bytes = await session.serialize(),
    old = await withoutParts(bytes);
  await other.deserialize(old);
  assert.equal(await partsOf(other), 1);
  await other.restoreCheckpoint(await decodeCheckpoint(bytes, 'the checkpoint'), 'parameters');
  assert.equal(await partsOf(other), 1, 'only parameters were restored');
  await other.deserialize(bytes);
  assert.equal(await partsOf(other), 8);
  const { meta, file } = await decodeCheckpoint(bytes, 'the checkpoint');
  await file.close();
  await assert.rejects(
    decodeCheckpoint(await checkpointBytes({ tensors: [], meta: { ...meta, parts: 3 } }), 'the checkpoint'),
    /no valid number of parts \(3\)/,
  );
});
