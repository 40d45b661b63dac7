// The parts of a training step: a batch is split into micro-batches, and each gets a program and its inputs. In: a
// batch and the current settings; out: parts in the order in which they run. The last part updates the parameters.
import type { Batch } from '../base/tensor.ts';
import type { Graph } from '../graph/graph.ts';
import { rowsOf } from '../nn/moe/memory.ts';
import type { Reference } from '../run/reference.ts';
import { SESSION } from '../trace/knobs.ts';
import type { Batching } from './batching.ts';
import type { Loan } from './copies.ts';
import { forwardGraph, stepGraph, type Source } from './graphs.ts';
import { outputCounts, Shares, type KnownShares } from './means.ts';
import type { Traced } from './programs.ts';
import { rowInputs, rowShapes, rowsOfAll, type BatchType, type RowBounds, type RowPrograms } from './rows.ts';
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
  readonly #rows: RowPrograms;
  /** What parts need, if there are several: weighing them may evaluate a graph. */
  readonly reference: Reference;
  readonly #shares: Shares;
  /** The bounds of the last batch in so many parts: a step asks for them several times. */
  #last: { readonly batch: Batch; readonly parts: number; readonly rows: RowBounds | null } | null = null;

  /** observed: whether steps also output statistics. */
  constructor(source: Source, batching: Batching, rows: RowPrograms, observed: () => boolean, reference: Reference) {
    this.reference = reference;
    this.#shares = new Shares(reference);
    this.#source = source;
    this.#batching = batching;
    this.#rows = rows;
    this.#observed = observed;
  }

  of(batch: Batch, { steps, inputs: inputsOf, known, loan }: StepNow): Part[] {
    const { updating } = this.#source,
      { all, rows } = this.#formed(batch),
      { length: parts, 0: first } = all;
    const fixed = { commit: Int32Array.of(1), ...updating.scalars(steps) },
      frozen = updating.frozen();
    const inputs = all.map((part, i) =>
      loan.note<Inputs>({
        ...inputsOf(part),
        ...(rows && rowInputs(part, rows)),
        ...numbersOf(i, parts),
        ...(rows && parts > 1 && { first_row: Uint32Array.of(rowsOfAll(all.slice(0, i))) }),
        ...fixed,
      }),
    );
    const counts = (): Graph => forwardGraph(this.#source, { ...first, rows }, this.#observed(), 'add', outputCounts);
    const shares = parts === 1 ? [] : this.#shares.of(known, inputs, this.#shapes(first, rows), counts);
    return all.map((part, i): Part => {
      const phase = phaseOf(i, parts),
        changes = (state: string) => (part.ids ? rowsOf(state, part.ids) : null);
      return {
        ...this.program(part, phase, parts, rows),
        frozen,
        changes,
        inputs: Object.assign(inputs[i], shares[i]),
        ...(parts === 1 && { onInputsRead: loan.done }),
      };
    });
  }

  /** The programs of a batch's parts. Reads only the shapes of the batch. */
  programs(batch: Batch): Traced[] {
    const { all, rows } = this.#formed(batch);
    return all.map((part, i) => this.program(part, phaseOf(i, all.length), all.length, rows));
  }

  /** The family of a part's program, and the function that traces it. rows: the program takes rows. */
  program(part: Batch, phase: Phase, parts: number, rows: RowBounds | null = null): Traced {
    const observed = this.#observed() ? 'observed ' : '',
      which = phase ? `${phase} of ${parts}` : '';
    const family = `train ${observed}${which} ${this.#shapes(part, rows)} ${this.#source.updating.key()}`;
    return { family, graph: () => this.graph({ ...part, rows }, phase, parts) };
  }

  graph(part: BatchType, phase: Phase, parts: number): Graph {
    return stepGraph(this.#source, part, this.#observed(), phase, parts);
  }

  /** The parts are made each time: when a call returns, its arrays are replaced by copies. */
  #formed(batch: Batch): { readonly all: readonly Batch[]; readonly rows: RowBounds | null } {
    const all = this.split(batch),
      { length: parts } = all;
    if (this.#last?.batch !== batch || this.#last.parts !== parts) {
      const boundsOf = (part: Batch): RowBounds | null =>
        this.#rows.of(`train ${parts}`, part, this.shapes(part), (rows) =>
          forwardGraph(this.#source, { ...part, rows }, this.#observed(), phaseOf(0, parts)),
        );
      // The last bounds are the largest.
      this.#last = { batch, parts, rows: all.map(boundsOf).at(-1) ?? null };
    }
    return { all, rows: this.#last.rows };
  }

  /** As text, what the program of a batch depends on. */
  shape(batch: Batch): string {
    const {
      all: [first],
      rows,
    } = this.#formed(batch);
    return rows ? rowShapes(first, rows) : this.shapes(batch);
  }

  #shapes(batch: Batch, rows: RowBounds | null): string {
    return rows ? rowShapes(batch, rows) : this.shapes(batch);
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
