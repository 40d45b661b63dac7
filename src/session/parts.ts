// The parts of a training step: a batch is split into micro-batches, and each gets a program and its inputs. In: a
// batch and the current settings; out: parts in the order in which they run. The last part updates the parameters.
import type { Batch } from '../base/tensor.ts';
import type { Graph } from '../graph/graph.ts';
import { rowsOf } from '../nn/moe/memory.ts';
import { SESSION } from '../trace/knobs.ts';
import type { Batching } from './batching.ts';
import type { Loan } from './copies.ts';
import { forwardGraph, stepGraph, type Source } from './graphs.ts';
import { outputCounts, Shares, type KnownShares } from './means.ts';
import type { Traced } from './programs.ts';
import { numbersOf, phaseOf, shapesOf, splitBatch, type Phase } from './step.ts';
import type { Inputs, Part } from './watch.ts';

/** The state of the session that a step starts from. */
export interface StepNow {
  /** Steps committed so far. */
  readonly steps: number;
  readonly inputs: (batch: Batch) => Inputs;
  /** Shares that this step has computed already. */
  readonly known: KnownShares;
  /** The arrays of the batch. */
  readonly loan: Loan;
}

export class StepParts {
  readonly #source: Source;
  readonly #batching: Batching;
  readonly #observed: () => boolean;
  readonly #shares = new Shares();

  /** observed: whether steps also output statistics. */
  constructor(source: Source, batching: Batching, observed: () => boolean) {
    this.#source = source;
    this.#batching = batching;
    this.#observed = observed;
  }

  of(batch: Batch, { steps, inputs: inputsOf, known, loan }: StepNow): Part[] {
    const { updating } = this.#source,
      all = this.split(batch),
      { length: parts, 0: first } = all;
    const fixed = { commit: Int32Array.of(1), ...updating.scalars(steps) },
      frozen = updating.frozen();
    const inputs = all.map((part, i) => loan.note<Inputs>({ ...inputsOf(part), ...numbersOf(i, parts), ...fixed }));
    const counts = (): Graph => forwardGraph(this.#source, first, this.#observed(), 'add', outputCounts);
    const shares = parts === 1 ? [] : this.#shares.of(known, inputs, this.shapes(first), counts);
    return all.map((part, i): Part => {
      const phase = phaseOf(i, parts),
        changes = (state: string) => (part.ids ? rowsOf(state, part.ids) : null);
      return {
        ...this.program(part, phase, parts),
        frozen,
        changes,
        inputs: Object.assign(inputs[i], shares[i]),
        ...(parts === 1 && { onInputsRead: loan.done }),
      };
    });
  }

  /** The programs of a batch's parts. Reads only the shapes of the batch. */
  programs(batch: Batch): Traced[] {
    const all = this.split(batch);
    return all.map((part, i) => this.program(part, phaseOf(i, all.length), all.length));
  }

  /** The family of a part's program, and the function that traces it. */
  program(part: Batch, phase: Phase, parts: number): Traced {
    const observed = this.#observed() ? 'observed ' : '',
      which = phase ? `${phase} of ${parts}` : '';
    const family = `train ${observed}${which} ${this.shapes(part)} ${this.#source.updating.key()}`;
    return { family, graph: () => this.graph(part, phase, parts) };
  }

  graph(part: Batch, phase: Phase, parts: number): Graph {
    return stepGraph(this.#source, part, this.#observed(), phase, parts);
  }

  /** Number of parts of a batch. */
  count(batch: Batch): number {
    return this.#batching.parts(batch.x.shape[0], Number(this.#source.knobs.setting(SESSION, 'split')));
  }

  split(batch: Batch): Batch[] {
    return splitBatch(batch, this.count(batch));
  }

  /**
   * Shapes as text, with ' ids' where it matters that samples have ids: for layers that can remember choices of
   * samples.
   */
  shapes(batch: Batch): string {
    return shapesOf(batch) + (batch.ids && this.#source.knobs.has('routing') ? ' ids' : '');
  }
}
