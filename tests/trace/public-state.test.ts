// The number of a model's public state changes with each write that tracing may see, and is the same again when the
// write is taken back.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import * as nn from '../../src/nn/index.ts';
import { sameData } from '../../src/base/same.ts';
import type { Graph } from '../../src/graph/graph.ts';
import { relu } from '../../src/graph/ops/elementwise/relu.ts';
import { reshape } from '../../src/graph/ops/shape/reshape.ts';
import type { Tensor } from '../../src/graph/tensor.ts';
import { traceGraph } from '../../src/pipeline.ts';
import { knobRules, Knobs } from '../../src/trace/knobs.ts';
import { nameParameters } from '../../src/trace/module.ts';
import { Parameter } from '../../src/trace/parameter.ts';
import { call } from '../../src/trace/trace.ts';
import { COMPARED_BYTES, PublicState } from '../../src/trace/public-state.ts';

type Open = Record<string, unknown>;
const stateOf = (model: object, more: Record<string, object> = {}): PublicState =>
  new PublicState(model, nameParameters(model), more);

class Layer {
  readonly weight = new Parameter([2], { kind: 'constant', value: 1 });
  scale = 2;
  name: string | null = 'a';
  list: unknown[] = [1, [2, { deep: 3 }]];
  table = new Map<unknown, unknown>([['a', { b: 1 }]]);
  set = new Set<unknown>([1]);
  mask = Float32Array.of(1, 0, 1);
  turn: (x: number) => number = Math.abs;
  #hidden = 5;
  get level(): number {
    return this.#hidden;
  }
  set level(level: number) {
    this.#hidden = level;
  }
  forward(): void {
    /* not traced here */
  }
}
class Net {
  layers = [new Layer(), new Layer()];
  options: Open = { nested: { rate: 0.5 } };
  forward(): void {
    /* not traced here */
  }
}

/** Makes a write and returns a function that takes it back. */
type Write = (net: Net) => () => void;
const set =
  (at: (net: Net) => object, key: string, value: unknown): Write =>
  (net) => {
    const object = at(net) as Open,
      had = Object.hasOwn(object, key) || key in object,
      before = object[key];
    object[key] = value;
    return () => {
      if (had) object[key] = before;
      else delete object[key];
    };
  };
const layer = (net: Net): Layer => net.layers[1];
const WRITES: readonly Write[] = [
  set(layer, 'scale', 3),
  set(layer, 'scale', NaN),
  set(layer, 'scale', -0),
  set(layer, 'scale', '2'),
  set(layer, 'name', null),
  set(layer, 'name', 'b'),
  set(layer, 'level', 6),
  set(layer, 'extra', 1),
  set((n) => layer(n).list, '0', 9),
  set((n) => (layer(n).list[1] as unknown[])[1] as object, 'deep', 4),
  (net) => {
    layer(net).list.splice(1, 0, 'more');
    return () => {
      layer(net).list.splice(1, 1);
    };
  },
  set((n) => n.options['nested'] as object, 'rate', 0.6),
  set((n) => n, 'options', { nested: { rate: 0.7 } }),
  set((n) => n.options, 'added', false),
  set(layer, 'turn', Math.ceil),
  set((n) => layer(n).mask, '1', 7),
  set(layer, 'mask', Float32Array.of(1, 0)),
  set((n) => layer(n).weight, 'frozen', true),
  set((n) => layer(n).weight, 'frozen', [true, false]),
  (net) => {
    layer(net).table.set('c', 2);
    return () => {
      layer(net).table.delete('c');
    };
  },
  (net) => {
    (layer(net).table.get('a') as Open)['b'] = 2;
    return () => {
      (layer(net).table.get('a') as Open)['b'] = 1;
    };
  },
  (net) => {
    layer(net).set.add('x');
    return () => {
      layer(net).set.delete('x');
    };
  },
  (net) => {
    layer(net).list.push(0);
    return () => {
      layer(net).list.pop();
    };
  },
];

test('every write gives a new number; taking the write back gives the old number again', () => {
  const net = new Net(),
    state = stateOf(net),
    first = state.number(),
    seen = new Set([first]);
  for (const [i, write] of WRITES.entries()) {
    const back = write(net),
      number = state.number();
    assert.ok(!seen.has(number), `write ${i} has a number of its own`);
    seen.add(number);
    assert.equal(state.number(), number, 'nothing more changed');
    back();
    assert.equal(state.number(), first, `write ${i} is taken back`);
  }
});

test('random writes: two states have equal numbers if and only if they are equal', () => {
  fc.assert(
    fc.property(
      fc.array(fc.array(fc.nat(WRITES.length - 1), { maxLength: 3 }), { minLength: 2, maxLength: 6 }),
      (rounds) => {
        const net = new Net(),
          state = stateOf(net),
          known = new Map<string, number>();
        // Each write is made at most once, so the written values determine the state.
        for (const round of rounds) {
          const chosen = [...new Set(round)].sort((a, b) => a - b),
            backs = chosen.map((i) => WRITES[i](net)),
            text = JSON.stringify([
              net.layers[1].scale,
              net.layers[1].name,
              net.layers[1].level,
              net.options,
              net.layers[1].list,
              [...net.layers[1].table],
              [...net.layers[1].set],
              [...net.layers[1].mask],
              net.layers[1].turn.name,
              net.layers[1].weight.frozen,
              'extra' in net.layers[1],
              Object.is(net.layers[1].scale, -0),
              Number.isNaN(net.layers[1].scale),
            ]);
          const number = state.number(),
            found = known.get(text);
          if (found !== undefined) assert.equal(number, found);
          else assert.ok(![...known.values()].includes(number), text);
          known.set(text, number);
          for (const back of backs.reverse()) back();
        }
      },
    ),
    { numRuns: 200, seed: 3 },
  );
});

test('an error names the module or parameter that was replaced, added or removed, until this is taken back', () => {
  const net = new Net(),
    state = stateOf(net),
    first = state.number(),
    weight = layer(net).weight,
    [one, two] = net.layers;
  const wrong: [() => void, () => void, RegExp][] = [
    [
      () => {
        (layer(net) as unknown as Open)['weight'] = new Parameter([2], { kind: 'constant', value: 1 });
      },
      () => {
        (layer(net) as unknown as Open)['weight'] = weight;
      },
      /parameter layers\.1\.weight was added, removed or replaced/,
    ],
    [
      () => {
        net.layers[1] = new Layer();
      },
      () => {
        net.layers[1] = two;
      },
      /layers\.1/,
    ],
    [
      () => {
        net.layers.pop();
      },
      () => {
        net.layers.push(two);
      },
      /layers\.1/,
    ],
    [
      () => {
        net.layers.push(new Layer());
      },
      () => {
        net.layers.pop();
      },
      /layers\.2/,
    ],
    [
      () => {
        net.layers = [two, one];
      },
      () => {
        net.layers = [one, two];
      },
      /layers\.[01]/,
    ],
    [
      () => {
        (net as unknown as Open)['bias'] = new Parameter([1], { kind: 'constant', value: 0 });
      },
      () => {
        delete (net as unknown as Open)['bias'];
      },
      /parameter bias was added/,
    ],
  ];
  for (const [does, back, message] of wrong) {
    does();
    for (let i = 0; i < 2; i++) assert.throws(() => state.number(), { name: 'UserError', message });
    back();
    assert.equal(state.number(), first);
  }
});

test('properties that tracing itself writes are ignored; properties that the user writes are not', () => {
  class Own {
    calls = 0;
    last: unknown = null;
    rate = 1;
    seen: unknown[] = [];
    forward(): void {
      this.calls++;
      this.last = {};
      this.seen.push(this.calls);
      (this as unknown as Open)[`made${this.calls}`] = 1;
    }
  }
  const model = new Own(),
    state = stateOf(model),
    numbers = new Set<number>();
  for (let i = 0; i < 5; i++) {
    state.tracing(() => {
      model.forward();
    });
    numbers.add(state.number());
  }
  assert.equal(numbers.size, 1);
  model.rate = 2;
  assert.notEqual(state.number(), [...numbers][0]);
  assert.throws(
    () =>
      state.tracing(() => {
        model.calls = -1;
        throw new Error('while it is traced');
      }),
    /while it is traced/,
  );
  model.rate = 1;
  assert.equal(state.number(), [...numbers][0]);
});

test('computing the number reads every property once', () => {
  let reads = 0;
  const model = {
      rate: 1,
      get counted(): number {
        reads++;
        return 3;
      },
      forward(): void {
        /* not traced here */
      },
    },
    state = stateOf(model),
    before = reads;
  for (let i = 0; i < 100; i++) state.number();
  assert.equal(reads - before, 100);
  const lm = new nn.TransformerLM({
    vocab: 256,
    dModel: 128,
    layers: 4,
    heads: 4,
    context: 64,
    moe: { experts: 8, topK: 2, hidden: 256 },
  });
  assert.ok(
    stateOf(lm).size < 400,
    `${stateOf(lm).size} comparisons for the default model, one step of which takes 10^9 multiplications`,
  );
});

test(`typed arrays are compared by their elements up to ${COMPARED_BYTES} bytes, larger ones by identity`, () => {
  const model = {
      small: new Float32Array(COMPARED_BYTES / 4),
      large: new Float32Array(COMPARED_BYTES / 4 + 1),
      forward(): void {
        /* not traced here */
      },
    },
    state = stateOf(model),
    first = state.number();
  model.large[0] = 1;
  assert.equal(state.number(), first);
  model.small[0] = 1;
  assert.notEqual(state.number(), first);
  model.small[0] = 0;
  model.large = model.large.slice();
  assert.notEqual(state.number(), first);
});

/** For each class that `nn` exports: a function that makes an instance, and the options it was made with. */
const EXAMPLES: Readonly<Record<string, () => { options: object; module: object }>> = Object.fromEntries(
  Object.entries({
    CausalSelfAttention: (o: object) => new nn.CausalSelfAttention(o as never),
    BatchNorm: (o: object) => new nn.BatchNorm(4, o as never),
    Conv2d: (o: object) => new nn.Conv2d(2, 4, 3, o as never),
    Dropout: () => new nn.Dropout(0.5),
    Embedding: (o: object) => new nn.Embedding(5, 4, o as never),
    Linear: (o: object) => new nn.Linear(4, 4, o as never),
    MLP: (o: object) => new nn.MLP([4, 4], o as never),
    ExpertBank: (o: object) => new nn.ExpertBank(o as never),
    ExpertChoiceRouter: (o: object) => new nn.ExpertChoiceRouter(o as never),
    HashRouter: (o: object) => new nn.HashRouter(o as never),
    MoE: (o: object) => new nn.MoE(o as never),
    SharedExpert: (o: object) => new nn.SharedExpert(o as never),
    NoisyTopKRouter: (o: object) => new nn.NoisyTopKRouter(o as never),
    SigmoidRouter: (o: object) => new nn.SigmoidRouter(o as never),
    SinkhornRouter: (o: object) => new nn.SinkhornRouter(o as never),
    TopKRouter: (o: object) => new nn.TopKRouter(o as never),
    MultiHeadAttention: (o: object) => new nn.MultiHeadAttention(o as never),
    LayerNorm: (o: object) => new nn.LayerNorm(4, o as never),
    RMSNorm: (o: object) => new nn.RMSNorm(4, o as never),
    AvgPool2d: (o: object) => new nn.AvgPool2d(2, o as never),
    GlobalAvgPool2d: () => new nn.GlobalAvgPool2d(),
    MaxPool2d: (o: object) => new nn.MaxPool2d(2, o as never),
    Flatten: () => new nn.Flatten(),
    Sequential: () => new nn.Sequential(new nn.Linear(4, 4), relu),
    SmallCNN: (o: object) => new nn.SmallCNN(o as never),
    TransformerBlock: (o: object) => new nn.TransformerBlock(o as never),
    TransformerLM: (o: object) => new nn.TransformerLM(o as never),
  }).map(([name, make]) => [
    name,
    () => {
      const options = Object.fromEntries(
        Object.entries(structuredClone(OPTIONS[name] ?? {})).filter(([, value]) => value !== undefined),
      );
      return { options, module: make(options) };
    },
  ]),
);

const GROUPS = { groups: 2, limit: 1 },
  ROUTER = { dModel: 4, experts: 4, jitter: 0.1 },
  BLOCK = {
    vocab: 8,
    dModel: 4,
    layers: 1,
    heads: 2,
    context: 8,
    moe: { experts: 4, topK: 2, hidden: 4, capacity: [1, 2, 1, 1] },
  };
const OPTIONS: Readonly<Record<string, object>> = {
  CausalSelfAttention: { dModel: 4, heads: 2, context: 8, ropeBase: 100 },
  BatchNorm: { eps: 1e-3, momentum: 0.5 },
  Conv2d: { padding: [1, 1], stride: [1, 1] },
  ExpertBank: { experts: 2, dModel: 4, hidden: 4, activation: 'relu' },
  ExpertChoiceRouter: ROUTER,
  HashRouter: { experts: 4, seed: 3 },
  MoE: { dModel: 4, experts: 4, topK: 2, hidden: 4, capacity: [1, 2, 1, 1], losses: { balance: 0.1 } },
  SharedExpert: { dModel: 4, hidden: 4 },
  NoisyTopKRouter: ROUTER,
  SigmoidRouter: { ...ROUTER, groups: GROUPS, scale: 2, biasRate: 0.1 },
  SinkhornRouter: { ...ROUTER, rounds: 3 },
  TopKRouter: { ...ROUTER, groups: GROUPS, softmax: 'after' },
  MultiHeadAttention: { dModel: 4, heads: 2, causal: true, rope: 100 },
  LayerNorm: { eps: 1e-3 },
  RMSNorm: { eps: 1e-3 },
  AvgPool2d: { stride: [2, 2], padding: [1, 1] },
  MaxPool2d: { stride: [2, 2], padding: [1, 1] },
  SmallCNN: { image: [8, 8, 1], outputs: 2, widths: [2] },
  TransformerBlock: { ...BLOCK, vocab: undefined },
  TransformerLM: { ...BLOCK, padding: 3 },
};

test('every class of nn has an example in this file', () => {
  const classes = Object.entries(nn as unknown as Record<string, unknown>)
    .filter(([, value]) => typeof value === 'function' && /^class /.test(Function.prototype.toString.call(value)))
    .map(([name]) => name);
  assert.deepEqual(Object.keys(EXAMPLES).sort(), classes.filter((name) => name !== 'LinearRouter').sort());
});

/** The graph of an example's forward pass. */
function graphOf(name: string, module: object): Graph {
  const images = ['Conv2d', 'AvgPool2d', 'MaxPool2d', 'GlobalAvgPool2d', 'BatchNorm', 'Flatten'].includes(name),
    dtype = name === 'Embedding' || name === 'TransformerLM' ? ('int32' as const) : ('float32' as const);
  const shape =
    name === 'SmallCNN'
      ? [2, 8, 8, 1]
      : name === 'Conv2d'
        ? [2, 4, 4, 2]
        : images
          ? [2, 4, 4, 4]
          : dtype === 'int32'
            ? [2, 8]
            : ['CausalSelfAttention', 'MultiHeadAttention', 'TransformerBlock'].includes(name)
              ? [2, 8, 4]
              : [8, 4];
  const own = name.endsWith('Router')
    ? new nn.MoE({ dModel: 4, experts: 4, topK: 1, hidden: 4, router: module as nn.Router })
    : module;
  return traceGraph(nameParameters(own), true, (t) => {
    const x = t.input('input', 'x', { dtype, shape });
    if (name === 'ExpertBank') t.output('y', (own as nn.ExpertBank).batched(reshape(x, [2, 4, 4])));
    else t.output('y', call(own as { forward(x: Tensor): Tensor }, x));
  });
}

/** Changes every value in an options object, also in the lists and objects within. */
function changeAllValues(options: object): void {
  for (const [key, value] of Object.entries(options) as [string, unknown][]) {
    if (typeof value === 'object' && value !== null) changeAllValues(value);
    else
      (options as Open)[key] = typeof value === 'number' ? value * 2 + 1 : typeof value === 'boolean' ? !value : 'else';
  }
}

for (const [name, make] of Object.entries(EXAMPLES)) {
  test(`${name}: writing to its options object after construction changes nothing`, () => {
    const { module, options } = make(),
      before = graphOf(name, module);
    changeAllValues(options);
    assert.ok(sameData(graphOf(name, module), before));
  });

  test(`${name}: writing to a public property has an effect or throws`, () => {
    const { module } = make(),
      model = {
        module,
        forward(): void {
          /* not traced here */
        },
      },
      state = stateOf(model),
      knobs = new Knobs(nameParameters(model)),
      { paths } = nameParameters(model);
    for (const object of [...paths.keys(), ...nameParameters(model).parameters.values()]) {
      const inherited: string[] = [];
      for (
        let type = Object.getPrototypeOf(object) as object;
        type !== Object.prototype && type !== Array.prototype;
        type = Object.getPrototypeOf(type) as object
      ) {
        for (const [key, { get, set: setter }] of Object.entries(Object.getOwnPropertyDescriptors(type)))
          if (get && setter) inherited.push(key);
      }
      for (const key of [...Object.keys(object), ...inherited]) {
        if (object === model && key === 'module') continue;
        const open = object as Open,
          before = open[key],
          was = `${state.number()} ${knobs.key()}`;
        for (const value of [
          null,
          0.25,
          3,
          1,
          true,
          [true],
          'dropless',
          'padded',
          'spill',
          'probs',
          new Parameter([1], { kind: 'constant', value: 0 }),
        ]) {
          if (Object.is(value, before)) continue;
          try {
            open[key] = value;
          } catch (error) {
            assert.ok(error instanceof TypeError || (error as Error).name === 'UserError', String(error));
            continue;
          }
          // A knob may convert the value to the one that it has already (`true` to a list of `true`).
          if (Object.hasOwn(knobRules(object) ?? {}, key) && JSON.stringify(open[key]) === JSON.stringify(before))
            continue;
          let now: string;
          try {
            now = `${state.number()} ${knobs.key()}`;
          } catch (error) {
            now = (error as Error).name;
          }
          assert.ok(
            now === 'UserError' || now !== was,
            `${paths.get(object) ?? object.constructor.name}.${key} = ${JSON.stringify(value)} is ignored`,
          );
          open[key] = before;
        }
        assert.equal(`${state.number()} ${knobs.key()}`, was);
      }
    }
  });
}
