// A session as the recompilation engine sees it: the programs of its steps, for the shapes of batches that came last.
import type { Batch } from '../base/tensor.ts';
import type { Graph } from '../graph/graph.ts';
import { draftOf, type Draft } from '../recompile/draft.ts';
import type { Plant, Prepared } from '../recompile/plant.ts';
import type { Change, Knobs } from '../trace/knobs.ts';
import type { Named } from '../trace/module.ts';
import type { Compiling } from './backend.ts';
import type { ProgramKey, Programs } from './programs.ts';
import { shapesOf, type Phase } from './step.ts';

const SHAPES = 4; // of batches for which a new plan is compiled ahead

/** What it needs of a session. */
export interface Stepped {
  readonly model: object;
  readonly named: Named;
  steps(): number;
  readonly phases: readonly Phase[];
  readonly knobs: Knobs;
  readonly programs: Programs;
  trainFamily(batch: Batch, phase: Phase): string;
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
    const shape = shapesOf(batch);
    this.#shape = shape;
    this.#seen.delete(shape);
    this.#seen.set(shape, batch);
    for (const old of this.#seen.keys()) {
      if (this.#seen.size <= SHAPES) break;
      this.#seen.delete(old);
    }
  }

  prepare(changes: readonly Change[]): Prepared {
    const made = this.#prepared(changes, (family, graph) => this.#session.programs.begin(family, graph));
    if (!made) throw new Error('a program that could be traced was not begun');
    return made;
  }

  resize(changes: readonly Change[]): Prepared | null { return this.#prepared(changes, (family) => this.#session.programs.beginResized(family)); }

  #prepared(changes: readonly Change[], begin: (family: string, graph: () => Graph) => Compiling | null): Prepared | null {
    const { programs, phases } = this.#session, shapes = new Set(this.#seen.keys());
    return this.knobs.with(changes, () => {
      const plans = [...this.#seen.values()].flatMap((batch) => phases.map((phase) => {
        const family = this.#session.trainFamily(batch, phase);
        return { batch, phase, family, key: programs.key(family) };
      }));
      const cached = plans.every(({ key }) => programs.has(key)), drop = (): void => { for (const { key } of plans) programs.drop(key); };
      try {
        const coming: Promise<void>[] = [];
        for (const { batch, phase, family, key } of plans) {
          if (programs.has(key)) continue;
          const begun = begin(family, () => this.#session.trainGraph(batch, phase));
          if (!begun) return null;
          coming.push(begun.ready);
        }
        const ready = Promise.all(coming).then(() => undefined);
        ready.catch(drop);
        const largest = (): number => Math.max(...plans.map(({ key }) => programs.bytes(key)));
        let bytes = largest();
        return { cached, ready, drop, has: (shape) => shapes.has(shape), bytes: () => bytes,
          load: () => { for (const { key } of plans) programs.load(key); bytes = largest(); },
          kernels: (shape) => kernelsOf(programs, plans.filter((p) => shapesOf(p.batch) === shape).map((p) => p.key)) };
      } catch (error) {
        drop();
        throw error;
      }
    });
  }

  kernels(): string | null {
    const batch = this.#seen.get(this.#shape), { programs, phases } = this.#session;
    return batch ? kernelsOf(programs, phases.map((phase) => programs.key(this.#session.trainFamily(batch, phase)))) : null;
  }

  bytes(): number {
    const batch = this.#seen.get(this.#shape), { programs, phases } = this.#session;
    return batch ? Math.max(...phases.map((phase) => programs.bytes(programs.key(this.#session.trainFamily(batch, phase))))) : 0;
  }
}

function kernelsOf(programs: Programs, keys: readonly ProgramKey[]): string | null {
  const sets = keys.map((key) => programs.kernels(key));
  return sets.includes(null) || sets.length === 0 ? null : sets.join('\n');
}
