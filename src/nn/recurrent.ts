// Recurrent layers: LSTM and GRU, unrolled over time.
import { ShapeError, UserError } from '../base/errors.ts';
import { checkOptions, type KeysOf } from '../base/options.ts';
import { aFlag, aSize } from '../base/kinds.ts';
import { boundOf, isDynamic, showType } from '../base/shape.ts';
import { full, type Tensor } from '../graph/tensor.ts';
import { add } from '../graph/ops/elementwise/add.ts';
import { mul } from '../graph/ops/elementwise/mul.ts';
import { sigmoid } from '../graph/ops/elementwise/sigmoid.ts';
import { sub } from '../graph/ops/elementwise/sub.ts';
import { tanh } from '../graph/ops/elementwise/tanh.ts';
import { matmul } from '../graph/ops/matmul/matmul.ts';
import { reshape } from '../graph/ops/shape/reshape.ts';
import { slice } from '../graph/ops/shape/slice.ts';
import { split, stack } from '../graph/ops/shape/arrange.ts';
import { Parameter } from '../trace/parameter.ts';
import { call, use, within } from '../trace/trace.ts';

export interface RecurrentOptions {
  /** Layers, each of which reads the hidden states of the one before; default 1. */
  readonly layers?: number;
  /** Adds biases; default true. */
  readonly bias?: boolean;
}
const KEYS: KeysOf<RecurrentOptions> = { layers: aSize, bias: aFlag };

/** The result of a sequence: hidden states [batch, time, hidden], and the state of each layer after the last step. */
export interface Unrolled<State> {
  readonly output: Tensor;
  readonly state: readonly State[];
}

/** State of an LSTM layer: hidden state h and cell c, both [batch, hidden]. */
export interface LstmState {
  readonly h: Tensor;
  readonly c: Tensor;
}

/** One layer: parameters with the gates side by side, and one step. */
abstract class Cell<State> {
  readonly input: Parameter; // [inputs, gates * hidden]
  readonly recurrent: Parameter; // [hidden, gates * hidden]
  readonly bias: Parameter | null; // [gates * hidden]
  readonly hidden: number;

  constructor(inputs: number, hidden: number, gates: number, bias: boolean) {
    const init = { kind: 'uniform', bound: 1 / Math.sqrt(hidden) } as const;
    this.input = new Parameter([inputs, gates * hidden], init);
    this.recurrent = new Parameter([hidden, gates * hidden], init);
    this.bias = bias ? new Parameter([gates * hidden], { kind: 'constant', value: 0 }, { role: 'bias' }) : null;
    this.hidden = hidden;
  }

  /** From what the input gives to the gates, [batch, gates * hidden], and the state before. */
  abstract step(gates: Tensor, state: State): State;
  abstract start(zeros: Tensor): State;
  abstract tensors(state: State): readonly Tensor[];

  forward(x: Tensor, before: State | undefined): Unrolled<State> {
    const [batch, time] = x.shape.map(boundOf),
      product = matmul(x, use(x, this.input)), // all steps at once
      gates = this.bias ? add(product, use(x, this.bias)) : product,
      width = boundOf(gates.shape[2]);
    let state = before ?? this.start(full(x, [batch, this.hidden], 0));
    const outputs = Array.from({ length: time }, (_, t) => {
      state = this.step(reshape(slice(gates, 1, t, t + 1), [batch, width]), state);
      return this.tensors(state)[0];
    });
    return { output: stack(outputs, 1), state: [state] };
  }
}

class LstmCell extends Cell<LstmState> {
  constructor(inputs: number, hidden: number, bias: boolean) {
    super(inputs, hidden, 4, bias);
  }
  start(h: Tensor): LstmState {
    return { h, c: h };
  }
  tensors({ h, c }: LstmState): readonly Tensor[] {
    return [h, c];
  }
  step(gates: Tensor, { h, c }: LstmState): LstmState {
    const [i, f, g, o] = split(add(gates, matmul(h, use(gates, this.recurrent))), 4, 1),
      cell = add(mul(sigmoid(f), c), mul(sigmoid(i), tanh(g)));
    return { h: mul(sigmoid(o), tanh(cell)), c: cell };
  }
}

class GruCell extends Cell<Tensor> {
  readonly newBias: Parameter | null; // [hidden], of the recurrent part of n
  constructor(inputs: number, hidden: number, bias: boolean) {
    super(inputs, hidden, 3, bias);
    this.newBias = bias ? new Parameter([hidden], { kind: 'constant', value: 0 }, { role: 'bias' }) : null;
  }
  start(h: Tensor): Tensor {
    return h;
  }
  tensors(h: Tensor): readonly Tensor[] {
    return [h];
  }
  step(gates: Tensor, h: Tensor): Tensor {
    const [xr, xz, xn] = split(gates, 3, 1),
      [hr, hz, hn] = split(matmul(h, use(gates, this.recurrent)), 3, 1),
      r = sigmoid(add(xr, hr)),
      z = sigmoid(add(xz, hz)),
      n = tanh(add(xn, mul(r, this.newBias ? add(hn, use(gates, this.newBias)) : hn)));
    return add(n, mul(z, sub(h, n)));
  }
}

/** Layers one after the other, with the checks of what they are given. */
abstract class Recurrent<State> {
  readonly cells: readonly Cell<State>[];
  readonly #name: string;
  readonly #inputs: number;

  constructor(
    name: string,
    inputs: number,
    hidden: number,
    options: RecurrentOptions,
    make: (inputs: number, bias: boolean) => Cell<State>,
  ) {
    checkOptions(name, options, KEYS);
    const { layers = 1, bias = true } = options;
    for (const [what, size] of [
      ['inputs', inputs],
      ['hidden', hidden],
    ] as const)
      if (!(Number.isInteger(size) && size > 0))
        throw new UserError(`${name}: ${what} must be a whole number of at least 1, got ${String(size)}`);
    this.#name = name;
    this.#inputs = inputs;
    this.cells = Array.from({ length: layers }, (_, i) => make(i === 0 ? inputs : hidden, bias));
  }

  /** Hidden states of the last layer, [batch, time, hidden], from zero states. x: [batch, time, inputs]. */
  forward(x: Tensor): Tensor {
    return this.unroll(x).output;
  }

  /**
   * The same from `state`, one for each layer (zeros by default), with the states after the last step: for generation,
   * or a next part of the sequence; `ops.stopGradient` of them truncates backpropagation. ShapeError where x or a state
   * does not fit, or where the batch varies at run time.
   */
  unroll(x: Tensor, state?: readonly State[]): Unrolled<State> {
    const name = this.#name,
      [batch, time] = x.shape;
    if (x.shape.length !== 3 || x.shape[2] !== this.#inputs)
      throw new ShapeError(`${name}: x must be [batch, time, ${this.#inputs}], got ${showType(x.type)}`);
    if (isDynamic(x.shape) || time === 0)
      throw new ShapeError(`${name}: batch and time must be fixed, and time at least 1, got ${showType(x.type)}`);
    const [{ hidden }] = this.cells;
    if (state && state.length !== this.cells.length)
      throw new ShapeError(`${name}: there are ${this.cells.length} layers, but states for ${state.length}`);
    for (const [i, of] of (state ?? []).entries())
      for (const t of this.cells[i].tensors(of))
        if (t.shape.length !== 2 || t.shape[0] !== batch || t.shape[1] !== hidden)
          throw new ShapeError(
            `${name}: state of layer ${i} must be [${boundOf(batch)}, ${hidden}], got ${showType(t.type)}`,
          );
    return within(x, this, () => {
      const states: State[] = [];
      const output = this.cells.reduce((h, cell, i) => {
        const made = call(cell, h, state?.[i]);
        states.push(...made.state);
        return made.output;
      }, x);
      return { output, state: states };
    });
  }
}

/**
 * Long short-term memory (Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000): [batch, time, inputs] ->
 * [batch, time, hidden]. Gates [i, f, g, o] = x W + h U + b; c' = sigmoid(f) c + sigmoid(i) tanh(g); h' = sigmoid(o)
 * tanh(c'). Parameters of layer k: `cells.k.input` [inputs, 4 hidden], `cells.k.recurrent` [hidden, 4 hidden] and
 * `cells.k.bias` [4 hidden], gates in this order. Weights start uniform within 1 / sqrt(hidden), biases at 0. Steps are
 * unrolled in the graph, so the time to compile and memory grow with their number: LSTM(32, 64) in batches of 16 took
 * 17 s to its first step with 32 steps and no cached kernels (native, two busy cores), and 1.5 MB beside the
 * parameters; with 64 steps it took twice the memory. With cached kernels the first step took 0.8 s.
 */
export class LSTM extends Recurrent<LstmState> {
  constructor(inputs: number, hidden: number, options: RecurrentOptions = {}) {
    super('LSTM', inputs, hidden, options, (n, bias) => new LstmCell(n, hidden, bias));
  }
}

/**
 * Gated recurrent unit (Cho et al. 2014, with the reset gate after the product, as in cuDNN): [batch, time, inputs] ->
 * [batch, time, hidden]. r = sigmoid(x Wr + h Ur + br), z = sigmoid(x Wz + h Uz + bz), n = tanh(x Wn + bn + r (h Un +
 * newBias)), h' = (1 - z) n + z h. Parameters of layer k: `cells.k.input` [inputs, 3 hidden], `cells.k.recurrent`
 * [hidden, 3 hidden] and `cells.k.bias` [3 hidden], in the order r, z, n, and `cells.k.newBias` [hidden]. Weights start
 * uniform within 1 / sqrt(hidden), biases at 0. Steps are unrolled in the graph: the time to compile grows with their
 * number.
 */
export class GRU extends Recurrent<Tensor> {
  constructor(inputs: number, hidden: number, options: RecurrentOptions = {}) {
    super('GRU', inputs, hidden, options, (n, bias) => new GruCell(n, hidden, bias));
  }
}
