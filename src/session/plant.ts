// A session as the recompilation engine sees it: the programs of its steps, for the shapes of batches that came last.
import type { Batch } from '../base/tensor.ts';
import type { Graph } from '../graph/graph.ts';
import { draftOf, type Draft } from '../recompile/draft.ts';
import type { Plant, Prepared } from '../recompile/plant.ts';
import type { Change, Knobs } from '../trace/knobs.ts';
import type { Named } from '../trace/module.ts';
import type { Programs } from './programs.ts';
import type { Phase } from './step.ts';

const SHAPES = 4; // of batches for which a new plan is compiled ahead

/** What it needs of a session. */
export interface Stepped {
  readonly model: object;
  readonly named: Named;
  steps(): number;
  readonly phases: readonly Phase[];
  readonly knobs: Knobs;
  readonly programs: Programs;
  trainKey(batch: Batch, phase: Phase): string;
  trainGraph(batch: Batch, phase: Phase): Graph;
}

export class SessionPlant implements Plant {
  readonly #session: Stepped;
  /** Batches whose shapes came last, the newest at the end. */
  readonly #seen = new Map<string, Batch>();
  #shape = '';

  constructor(session: Stepped) { this.#session = session; }

  get knobs(): Knobs { return this.#session.knobs; }
  next(): number { return this.#session.steps() + 1; }
  shape(): string { return this.#shape; }
  draft(): Draft<object> { return draftOf(this.#session.model, this.#session.named); }

  /** A batch, or a part of one, that the next step takes. */
  saw(batch: Batch): void {
    const shape = [batch.x, batch.y].map((t) => `${t.dtype}[${t.shape.join()}]`).join(' ');
    this.#shape = shape;
    this.#seen.delete(shape);
    this.#seen.set(shape, batch);
    for (const old of this.#seen.keys()) {
      if (this.#seen.size <= SHAPES) break;
      this.#seen.delete(old);
    }
  }

  prepare(changes: readonly Change[]): Prepared {
    const { programs, phases } = this.#session, shapes = new Set(this.#seen.keys());
    return this.knobs.with(changes, () => {
      const plans = [...this.#seen.values()].flatMap((batch) => phases.map((phase) => ({ batch, phase, key: this.#session.trainKey(batch, phase) })));
      const cached = plans.every(({ key }) => programs.has(key)), drop = (): void => { for (const { key } of plans) programs.drop(key); };
      try {
        const coming = plans.map(({ batch, phase, key }) => (programs.has(key) ? null : programs.begin(key, () => this.#session.trainGraph(batch, phase))));
        const ready = Promise.all(coming.flatMap((c) => (c ? [c.ready] : []))).then(() => undefined);
        ready.catch(drop);
        const largest = (): number => Math.max(...plans.map(({ key }) => programs.bytes(key)));
        let bytes = largest();
        return { cached, ready, drop, has: (shape) => shapes.has(shape), load: () => { for (const { key } of plans) programs.load(key); bytes = largest(); }, bytes: () => bytes };
      } catch (error) {
        drop();
        throw error;
      }
    });
  }

  bytes(): number {
    const batch = this.#seen.get(this.#shape), { programs, phases } = this.#session;
    return batch ? Math.max(...phases.map((phase) => programs.bytes(this.#session.trainKey(batch, phase)))) : 0;
  }
}
