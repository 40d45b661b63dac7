// The parts of a training step: the micro-batches that a batch is split into, each a program with its inputs. In: a
// batch, the settings of now; out: parts in the order in which they run, the last of which updates.
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

/** What a step is made of at this moment. */
export interface StepNow {
  /** Steps committed so far. */
  readonly steps: number;
  readonly inputs: (batch: Batch) => Inputs;
  /** The shares of parts that this step knows already. */
  readonly known: KnownShares;
  /** The batch's arrays. */
  readonly loan: Loan;
}

export class StepParts {
  readonly #source: Source;
  readonly #batching: Batching;
  readonly #observed: () => boolean;
  readonly #shares = new Shares();

  /** `observed`: whether statistics are outputs of steps. */
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
    const shares = this.#shares.of(known, inputs, this.shapes(first), counts);
    return all.map((part, i): Part => {
      const phase = phaseOf(i, parts),
        changes = (state: string) => (part.ids ? rowsOf(state, part.ids) : null);
      return {
        ...this.program(part, phase, parts),
        frozen,
        changes,
        inputs: Object.assign(inputs[i], shares[i]),
        ...(parts === 1 && { fed: loan.done }),
      };
    });
  }

  /** The programs of a batch's parts; nothing but its shape is read. */
  programs(batch: Batch): Traced[] {
    const all = this.split(batch);
    return all.map((part, i) => this.program(part, phaseOf(i, all.length), all.length));
  }

  /** The family of a part's program, and how to trace it. */
  program(part: Batch, phase: Phase, parts: number): Traced {
    const observed = this.#observed() ? 'observed ' : '',
      which = phase ? `${phase} of ${parts}` : '';
    const family = `train ${observed}${which} ${this.shapes(part)} ${this.#source.updating.key()}`;
    return { family, graph: () => this.graph(part, phase, parts) };
  }

  graph(part: Batch, phase: Phase, parts: number): Graph {
    return stepGraph(this.#source, part, this.#observed(), phase, parts);
  }

  /** How many parts a batch has. */
  count(batch: Batch): number {
    return this.#batching.parts(batch.x.shape[0], Number(this.#source.knobs.settings(SESSION)['split']));
  }

  split(batch: Batch): Batch[] {
    return splitBatch(batch, this.count(batch));
  }

  /** Layers that may remember what samples chose look at whether samples have ids. */
  shapes(batch: Batch): string {
    return shapesOf(batch) + (batch.ids && this.#source.knobs.has('routing') ? ' ids' : '');
  }
}
