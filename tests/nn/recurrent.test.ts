// LSTM and GRU against plain loops in float64, their gradients against finite differences, states in and out, and what
// they refuse.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { call, loss, nn, ops, optim, ShapeError, UserError, type HostTensor, type Tensor } from '../../src/index.ts';
import { hostTensor } from '../../src/base/tensor.ts';
import { Stream } from '../../src/base/random.ts';
import { GRU, LSTM, type LstmState } from '../../src/layers.ts';
import { compile } from '../../src/node.ts';
import { grad } from '../../src/grad/grad.ts';

const normal = (name: string, shape: readonly number[]): HostTensor => {
  const stream = new Stream(5, name);
  return hostTensor(
    'float64',
    shape,
    Float64Array.from({ length: shape.reduce((n, d) => n * d, 1) }, (_, i) => stream.normal(0, i)),
  );
};
const BATCH = 2,
  TIME = 5,
  INPUTS = 3,
  HIDDEN = 4,
  x = normal('x', [BATCH, TIME, INPUTS]);

type Values = ReadonlyMap<string, ArrayLike<number>>;
const sigmoid = (v: number): number => 1 / (1 + Math.exp(-v));
/** Row `v` times a matrix with `width` columns, of which column `j`. */
const dot = (v: readonly number[], w: ArrayLike<number>, width: number, j: number): number =>
  v.reduce((sum, value, k) => sum + value * w[k * width + j], 0);

/** The hidden states of one sequence through one layer. */
function loops(kind: 'LSTM' | 'GRU', values: Values, layer: number, sequence: readonly number[][]): number[][] {
  const of = (name: string): ArrayLike<number> => {
    const found = values.get(`rnn.cells.${layer}.${name}`);
    assert.ok(found, `${name} in ${[...values.keys()].join(' ')}`);
    return found;
  };
  const [input, recurrent, bias] = ['input', 'recurrent', 'bias'].map(of),
    width = (kind === 'LSTM' ? 4 : 3) * HIDDEN;
  let h = new Array<number>(HIDDEN).fill(0),
    c = [...h];
  return sequence.map((row) => {
    const fromX = (gate: number, j: number): number =>
        dot(row, input, width, gate * HIDDEN + j) + bias[gate * HIDDEN + j],
      fromH = (gate: number, j: number): number => dot(h, recurrent, width, gate * HIDDEN + j);
    if (kind === 'LSTM') {
      const sum = (gate: number, j: number): number => fromX(gate, j) + fromH(gate, j);
      c = c.map((old, j) => sigmoid(sum(1, j)) * old + sigmoid(sum(0, j)) * Math.tanh(sum(2, j)));
      h = c.map((cell, j) => sigmoid(sum(3, j)) * Math.tanh(cell));
    } else {
      const added = of('newBias');
      h = h.map((old, j) => {
        const [r, z] = [0, 1].map((gate) => sigmoid(fromX(gate, j) + fromH(gate, j))),
          n = Math.tanh(fromX(2, j) + r * (fromH(2, j) + added[j]));
        return (1 - z) * n + z * old;
      });
    }
    return h;
  });
}

class Model {
  readonly rnn: LSTM | GRU;
  constructor(rnn: LSTM | GRU) {
    this.rnn = rnn;
  }
  forward(input: Tensor): Tensor {
    return call(this.rnn, input);
  }
}
const settings = { loss: loss.meanSquaredError, device: 'reference' as const, seed: 4 };

for (const [kind, make] of [
  ['LSTM', (layers: number) => new LSTM(INPUTS, HIDDEN, { layers })],
  ['GRU', (layers: number) => new GRU(INPUTS, HIDDEN, { layers })],
] as const) {
  test(`${kind} of two layers against plain loops, after steps that move every parameter`, async () => {
    const session = await compile(nn.setDtype(new Model(make(2)), 'float64'), {
      ...settings,
      optimizer: optim.adam({ lr: 0.1 }),
    });
    const y = normal('y', [BATCH, TIME, HIDDEN]);
    for (let i = 0; i < 3; i++) await session.step({ x, y });
    const values = new Map(session.states().map((s) => [s.name, s.read().data as ArrayLike<number>]));
    assert.ok([...(values.get('rnn.cells.1.bias') as Float64Array)].every((v) => v !== 0));
    const got = await session.predict(x);
    assert.deepEqual(got.shape, [BATCH, TIME, HIDDEN]);
    for (let b = 0; b < BATCH; b++) {
      const sequence = Array.from({ length: TIME }, (_, t) =>
        Array.from({ length: INPUTS }, (_, k) => x.data[(b * TIME + t) * INPUTS + k]),
      );
      const wanted = loops(kind, values, 1, loops(kind, values, 0, sequence)).flat();
      wanted.forEach((v, i) => assert.ok(Math.abs(v - got.data[b * TIME * HIDDEN + i]) < 1e-12));
    }
    await session.close();
  });

  test(`${kind}: a sequence in two parts, with the state between them, is the whole sequence`, async () => {
    class Parts extends Model {
      override forward(input: Tensor): Tensor {
        const rnn = this.rnn as LSTM,
          first = rnn.unroll(ops.slice(input, 1, 0, 2)),
          second = rnn.unroll(ops.slice(input, 1, 2, TIME), first.state);
        return ops.concat([first.output, second.output], 1);
      }
    }
    const outputs: ArrayLike<number>[] = [];
    for (const model of [new Model(make(2)), new Parts(make(2))]) {
      const session = await compile(nn.setDtype(model, 'float64'), settings);
      outputs.push((await session.predict(x)).data);
      await session.close();
    }
    assert.deepEqual(outputs[1], outputs[0]);
  });

  test(`${kind}: gradients against finite differences`, async () => {
    /** The gradient of a weighted sum of the outputs for the input, or that sum. */
    class Sum extends Model {
      readonly #slope: boolean;
      constructor(rnn: LSTM | GRU, slope: boolean) {
        super(rnn);
        this.#slope = slope;
      }
      override forward(input: Tensor): Tensor {
        const y = call(this.rnn, input),
          total = ops.sum(ops.mul(ops.sin(y), ops.exp(y)));
        return this.#slope ? ops.reshape(grad(total, [input])[0], [BATCH, TIME, INPUTS]) : ops.reshape(total, [1]);
      }
    }
    const [value, slope] = await Promise.all(
      [false, true].map((s) => compile(nn.setDtype(new Sum(make(2), s), 'float64'), settings)),
    );
    const slopes = (await slope.predict(x)).data;
    for (let i = 0; i < x.data.length; i++) {
      const at = async (d: number): Promise<number> => {
        const moved = Float64Array.from(x.data as Float64Array);
        moved[i] += d;
        return Number((await value.predict(hostTensor('float64', x.shape, moved))).data[0]);
      };
      const h = 1e-5,
        difference = ((await at(h)) - (await at(-h))) / (2 * h);
      assert.ok(Math.abs(difference - Number(slopes[i])) < 1e-8, `${i}: ${difference} and ${slopes[i]}`);
    }
    await value.close();
    await slope.close();
  });
}

test('shapes, states and options that do not fit are refused by name', async () => {
  const of = async (build: (input: Tensor) => Tensor, input = x): Promise<void> => {
    class Wrong {
      readonly rnn = new LSTM(INPUTS, HIDDEN);
      forward(t: Tensor): Tensor {
        return build.call(this, t);
      }
    }
    const session = await compile(nn.setDtype(new Wrong(), 'float64'), settings);
    try {
      await session.predict(input);
    } finally {
      await session.close();
    }
  };
  const run = function (this: { rnn: LSTM }, t: Tensor, state?: (t: Tensor) => readonly LstmState[]): Tensor {
    return this.rnn.unroll(t, state?.(t)).output;
  };
  const zeros = (t: Tensor, width: number): LstmState => {
    const h = ops.full(t, [BATCH, width], 0);
    return { h, c: h };
  };
  const cases: readonly (readonly [Promise<void>, RegExp])[] = [
    [of(run, normal('flat', [BATCH, INPUTS])), /LSTM: x must be \[batch, time, 3\], got float64\[2, 3\]/],
    [of(run, normal('wide', [BATCH, TIME, 7])), /LSTM: x must be \[batch, time, 3\]/],
    [
      of(function (this: never, t) {
        return run.call(this, t, () => []);
      }),
      /there are 1 layers, but states for 0/,
    ],
    [
      of(function (this: never, t) {
        return run.call(this, t, (u) => [zeros(u, 7)]);
      }),
      /state of layer 0 must be \[2, 4\], got float64\[2, 7\]/,
    ],
  ];
  for (const [done, message] of cases)
    await assert.rejects(done, (e) => e instanceof ShapeError && message.test(e.message));
  assert.throws(
    () => new LSTM(0, 4),
    (e) => e instanceof UserError && /LSTM: inputs must be a whole/.test(e.message),
  );
  assert.throws(
    () => new GRU(3, 2.5),
    (e) => e instanceof UserError && /GRU: hidden must be a whole/.test(e.message),
  );
});
