// Attention layers. Query heads that share key heads give what repeated key heads give; padding changes no other row;
// CausalSelfAttention and MultiHeadAttention agree if they have the same weights. All comparisons are of bits.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { hostTensor, type HostTensor } from '../../src/base/tensor.ts';
import { Stream } from '../../src/base/random.ts';
import { cast, notEqual, slice, sum } from '../../src/graph/ops/functions.ts';
import type { Tensor } from '../../src/graph/tensor.ts';
import { CausalSelfAttention } from '../../src/nn/attention.ts';
import { MultiHeadAttention, type MultiHeadOptions } from '../../src/nn/multi-head.ts';
import { TransformerLM } from '../../src/nn/transformer.ts';
import { compile } from '../../src/session/node.ts';
import type { Session } from '../../src/session/session.ts';
import { call } from '../../src/trace/trace.ts';
import { sgd } from '../../src/optim/sgd.ts';
import { crossEntropy } from '../../src/nn/loss.ts';
import { fingerprint, toyBatch, toyLM } from '../support/toy.ts';

const B = 2,
  T = 21,
  WIDTH = 24;
const loss = (output: Tensor): Tensor => sum(output);
const draw = (name: string, shape: readonly number[]): HostTensor =>
  hostTensor(
    'float32',
    shape,
    Float32Array.from({ length: shape.reduce((n, d) => n * d, 1) }, (_, i) => new Stream(3, name).normal(0, i)),
  );
const x = draw('x', [B, T, WIDTH]);

const read = (session: Session, name: string): Float32Array => session.executor.peekState(name).data as Float32Array;
const write = (session: Session, name: string, shape: readonly number[], data: Float32Array): void => {
  session.executor.setState(name, { dtype: 'float32', shape }, data);
};

/** These columns of a [rows, width] matrix, in the given order. */
const columns = (matrix: Float32Array, width: number, order: readonly number[]): Float32Array =>
  Float32Array.from(
    { length: (matrix.length / width) * order.length },
    (_, i) => matrix[Math.floor(i / order.length) * width + order[i % order.length]],
  );
const range = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, i) => from + i);

test('kvHeads equal to heads is multi-head attention', async () => {
  const after = async (options: { kvHeads?: number }): Promise<Record<string, string>> => {
    await using session = await compile(toyLM(options), { loss: crossEntropy, optimizer: sgd({ lr: 0.1 }) });
    for (let i = 0; i < 3; i++) await session.step(toyBatch(i));
    return fingerprint(session);
  };
  assert.deepEqual(await after({ kvHeads: 2 }), await after({}));
});

test('grouped-query attention equals multi-head attention with repeated heads of keys and values', async () => {
  const options = { dModel: WIDTH, heads: 6, context: T },
    width = 4;
  await using few = await compile(new CausalSelfAttention({ ...options, kvHeads: 2 }), { loss });
  await using many = await compile(new CausalSelfAttention(options), { loss });
  const expected = await few.predict(x); // allocates and initialises the weights
  await many.predict(x);
  const of = (first: number): number[] =>
    range(0, 6).flatMap((h) => range(0, width).map((c) => first + Math.floor(h / 3) * width + c));
  const order = [...range(0, WIDTH), ...of(WIDTH), ...of(WIDTH + 2 * width)];
  write(many, 'qkv.weight', [WIDTH, 3 * WIDTH], columns(read(few, 'qkv.weight'), WIDTH + 4 * width, order));
  write(many, 'out.weight', [WIDTH, WIDTH], read(few, 'out.weight'));
  assert.deepEqual((await many.predict(x)).data, expected.data);
});

test('MultiHeadAttention with causal and rope equals CausalSelfAttention', async () => {
  await using causal = await compile(new CausalSelfAttention({ dModel: WIDTH, heads: 6, kvHeads: 3, context: T }), {
    loss,
  });
  await using general = await compile(
    new MultiHeadAttention({ dModel: WIDTH, heads: 6, kvHeads: 3, causal: true, rope: true, bias: false }),
    { loss },
  );
  const expected = await causal.predict(x),
    qkv = read(causal, 'qkv.weight');
  await general.predict(x);
  write(general, 'q.weight', [WIDTH, WIDTH], columns(qkv, 48, range(0, 24)));
  write(general, 'k.weight', [WIDTH, 12], columns(qkv, 48, range(24, 36)));
  write(general, 'v.weight', [WIDTH, 12], columns(qkv, 48, range(36, 48)));
  write(general, 'out.weight', [WIDTH, WIDTH], read(causal, 'out.weight'));
  assert.deepEqual((await general.predict(x)).data, expected.data);
});

/** Attention with padding: positions at the end whose first number is 0 do not count. */
class Padded {
  readonly attention: MultiHeadAttention;
  constructor(options: Partial<MultiHeadOptions> = {}) {
    this.attention = new MultiHeadAttention({ dModel: WIDTH, heads: 3, ...options });
  }
  forward(x: Tensor): Tensor {
    const lengths = sum(cast(notEqual(slice(x, 2, 0, 1), 0), 'int32'), [1, 2]); // int32 [batch]
    return call(this.attention, x, { lengths });
  }
}

test('padding changes no bit of the other rows', async () => {
  await using session = await compile(new Padded(), { loss });
  const short = 13,
    row = short * WIDTH,
    part = x.data.slice(0, row);
  const long = new Float32Array(T * WIDTH);
  long.set(part);
  const expected = await session.predict(hostTensor('float32', [1, short, WIDTH], part));
  const got = await session.predict(hostTensor('float32', [1, T, WIDTH], long));
  assert.deepEqual(got.data.slice(0, row), expected.data);
});

test('attention to a memory of another width', async () => {
  class Cross {
    readonly attention = new MultiHeadAttention({ dModel: WIDTH, heads: 3, kvHeads: 1, memoryWidth: 5 });
    forward(x: Tensor): Tensor {
      return call(this.attention, x, { memory: slice(x, 2, 0, 5) });
    }
  }
  await using session = await compile(new Cross(), { loss });
  const { shape, data } = await session.predict(x);
  assert.deepEqual(shape, [B, T, WIDTH]);
  assert.ok(data.every(Number.isFinite));
  assert.equal(read(session, 'attention.k.weight').length, 5 * 8);
});

test('a layer trains through masks and lengths', async () => {
  await using session = await compile(new Padded({ kvHeads: 1 }), {
    loss: (output) => sum(output, [0, 1, 2]),
    optimizer: sgd({ lr: 0.01 }),
  });
  const first = await session.step({ x, y: x }),
    second = await session.step({ x, y: x });
  assert.ok(second.loss < first.loss && Number.isFinite(second.gradNorm));
});

test('sizes that do not fit are refused by name', () => {
  assert.throws(
    () => new CausalSelfAttention({ dModel: 24, heads: 6, kvHeads: 4, context: 8 }),
    /6 heads cannot share 4 heads of keys evenly/,
  );
  assert.throws(() => new MultiHeadAttention({ dModel: 24, heads: 5 }), /width 24 cannot be split into 5 heads/);
  assert.throws(() => new MultiHeadAttention({ dModel: 6, heads: 2, rope: true }), /heads of even width/);
  assert.throws(
    () => new TransformerLM({ vocab: 5, dModel: 8, layers: 1, heads: 2, kvHeads: 0, context: 4 }),
    /kvHeads must be a whole number/,
  );
});
