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
import { batchInputs, fromRows, rowInputs, rowShapes, type BatchType, type RowPrograms } from './rows.ts';
import { familyOf, shapesOf, splitStats, type CompileOptions } from './step.ts';
import type { Inputs, Outputs } from './watch.ts';

/** The parts of a session that inference uses. */
export interface Inferable {
  readonly source: Source;
  readonly options: Pick<CompileOptions, 'loss'>;
  readonly rows: RowPrograms;
  readonly copies: Copies;
  readonly order: Order;
  readonly recompiling: Recompiling;
  /** The inputs `seed` and `step`. */
  readonly counters: () => Inputs;
}

interface Formed {
  readonly family: string;
  readonly build: (t: Trace) => void;
  readonly inputs: Inputs;
  /** Gives outputs the shape of the batch. */
  readonly whole: (out: Outputs) => Outputs;
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
          const { family, build, inputs, whole } = this.#formed('eval', own, (form) => this.#lossOf(form));
          return this.#run(family, build, { ...counters(), ...inputs, ...(own.ids && { ids: own.ids }) }, loan).then(
            whole,
          );
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
      const buildOf =
        (form: BatchType) =>
        (t: Trace): void => {
          t.output('output', outputOf(source.model, batchInputs(t, form).x));
        };
      return order.run(() => {
        const { family, build, inputs, whole } = this.#formed('predict', own, buildOf);
        return this.#run(family, build, { ...counters(), ...inputs }, loan).then(whole);
      });
    });
    return out['output'];
  }

  /** The program for a batch, for its fixed sizes or for rows: its family, what it computes, and its inputs. */
  #formed(purpose: string, batch: Batch, buildOf: (form: BatchType) => (t: Trace) => void): Formed {
    const rows = this.#of.rows.of(purpose, batch, shapesOf(batch), (bounds) =>
      this.#traced(buildOf({ ...batch, rows: bounds })),
    );
    const { x, y } = batch,
      build = buildOf({ ...batch, rows });
    if (!rows)
      return { family: familyOf(purpose, batch), build, inputs: { x: x.data, y: y.data }, whole: (out) => out };
    return {
      family: `${purpose} ${rowShapes(batch, rows)}`,
      build,
      inputs: rowInputs(batch, rows),
      whole: ({ output, ...rest }) => ({ ...rest, output: fromRows(output, batch) }),
    };
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

  #lossOf(batch: BatchType): (t: Trace) => void {
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
