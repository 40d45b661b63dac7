// Runs of a session that change no parameters: forward passes, predictions, generation. In: a batch, an input or a
// graph of the caller's own; out: outputs by name. Rules that watch inference are asked between two of these runs.
import { checkBatch, type Batch, type HostTensor } from '../base/tensor.ts';
import type { Graph } from '../graph/graph.ts';
import type { Caches } from '../run/executor.ts';
import type { Trace } from '../trace/trace.ts';
import type { Copies, Loan } from './copies.ts';
import { lossGraph, outputOf, sessionGraph, type Source } from './graphs.ts';
import { measured, type Measured } from './means.ts';
import type { Order } from './order.ts';
import type { Recompiling } from './recompiling.ts';
import { familyOf, splitStats, type CompileOptions } from './step.ts';
import type { Inputs, Outputs } from './watch.ts';

/** The parts of a session that inference uses. */
export interface Inferable {
  readonly source: Source;
  readonly options: Pick<CompileOptions, 'loss'>;
  readonly copies: Copies;
  readonly order: Order;
  readonly recompiling: Recompiling;
  /** The inputs `seed` and `step`. */
  readonly counters: () => Inputs;
}

export class Inference {
  readonly #of: Inferable;
  #runs = 0;

  constructor(of: Inferable) {
    this.#of = of;
  }

  /** Number of runs so far. */
  get runs(): number {
    return this.#runs;
  }

  /** Loss and output for one batch. within: as in `Order.run`. */
  async measure(batch: Batch, within = false): Promise<Measured> {
    checkBatch(batch);
    const { copies, order, counters } = this.#of;
    const outputs = await copies.ofBatch(batch, (own, loan) =>
      order.run(
        () => {
          // Read when the run's turn has come: steps before it change the counters, and arrays may be copies by then.
          const inputs = { ...counters(), x: own.x.data, y: own.y.data, ...(own.ids && { ids: own.ids }) };
          return this.#run(familyOf('eval', own), this.#lossOf(own), inputs, loan);
        },
        { within },
      ),
    );
    return measured(batch, outputs);
  }

  /** The model's output for an input. */
  async predict(x: HostTensor): Promise<HostTensor> {
    const { copies, order, counters, source } = this.#of;
    const out = await copies.ofBatch({ x, y: x }, (own, loan) => {
      const build = (t: Trace): void => {
        t.output('output', outputOf(source.model, t.input('input', 'x', own.x)));
      };
      return order.run(() =>
        this.#run(familyOf('predict', own), build, { ...counters(), x: own.x.data, y: own.y.data }, loan),
      );
    });
    return out['output'];
  }

  /** As `Session.runGraph`. */
  runGraph(key: string, build: (t: Trace) => void, inputs: Inputs, caches?: Caches): Promise<Outputs> {
    const { copies, order, counters } = this.#of;
    return copies.of(inputs, (loan) =>
      order.run(() => this.#run(`run ${key}`, build, { ...counters(), ...loan.arrays }, loan, caches)),
    );
  }

  /** The graph of a forward pass with the loss. */
  evaluationGraph(batch: Batch): Graph {
    return this.#traced(this.#lossOf(batch));
  }

  #lossOf(batch: Batch): (t: Trace) => void {
    const { source, options } = this.#of;
    return (t) => {
      lossGraph(t, batch, source.model, options.loss);
    };
  }

  #traced(build: (t: Trace) => void): Graph {
    const { source, recompiling } = this.#of;
    return sessionGraph(source, false, recompiling.inference.engine !== null, build);
  }

  async #run(
    purpose: string,
    build: (t: Trace) => void,
    inputs: Inputs,
    loan: Loan,
    caches?: Caches,
  ): Promise<Outputs> {
    const watch = this.#of.recompiling.inference,
      family = watch.engine ? `observed ${purpose}` : purpose;
    let outputs: Outputs = {};
    const program = { family, graph: () => this.#traced(build) };
    const work = {
      shape: family,
      programs: () => [program],
      parts: () => [{ ...program, inputs: loan.note(inputs), onInputsRead: loan.done, caches }],
    };
    await watch.run(
      work,
      () => null,
      ([out]) => {
        const { plain, stats } = splitStats(out);
        outputs = plain;
        return { step: ++this.#runs, loss: Number(plain['loss']?.data[0] ?? NaN), stats, ids: null };
      },
    );
    return outputs;
  }
}
