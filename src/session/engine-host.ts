// What rules bring to a session: the recompilation engine, and what it sees of the session, the programs of its steps
// for the last few shapes of batches.
import { UserError } from '../base/errors.ts';
import type { TypedArray } from '../base/dtype.ts';
import type { HostTensor } from '../base/tensor.ts';
import type { Graph } from '../graph/graph.ts';
import { compare } from '../recompile/compare.ts';
import { draftOf, type Draft } from '../recompile/draft.ts';
import { Engine, type EngineOptions } from '../recompile/engine.ts';
import type { EngineHost, Prepared } from '../recompile/engine-host.ts';
import type { RecompileEvent } from '../recompile/rule.ts';
import { carry } from '../run/carry.ts';
import type { Caches, Executor } from '../run/executor.ts';
import { SESSION, type Change, type Knobs } from '../trace/knobs.ts';
import type { Named } from '../trace/module.ts';
import type { Batching } from './batching.ts';
import type { Compiling } from './backend.ts';
import type { Group } from './ranks.ts';
import type { ProgramKey, Programs, Traced } from './programs.ts';
import type { Shapes } from './shapes.ts';
import type { Updating } from './updating.ts';

/** The parts of a session that rules and plans use. */
export interface EngineSession {
  readonly model: object;
  readonly named: Named;
  readonly batching: Batching;
  readonly knobs: Knobs;
  readonly programs: Programs;
  readonly executor: Executor;
  readonly updating: Updating;
  /** The ranks of the session, if there are several. */
  readonly group: Pick<Group, 'agreement'> | null;
}

/** What rules of one kind of work bring. */
export interface Recompiler {
  readonly engine: Engine;
  readonly host: SessionEngineHost;
}

/** done: gives the number of steps (or runs) so far; emit: receives the engine's events. */
export function newRecompiler(
  session: EngineSession,
  shapes: Shapes,
  done: () => number,
  emit: (event: RecompileEvent) => void,
  options: EngineOptions,
): Recompiler {
  const host = new SessionEngineHost(session, shapes, done);
  return { host, engine: new Engine(host, emit, options) };
}

/** One part of a step, to be tried under another plan. */
interface Tried extends Traced {
  readonly inputs: Readonly<Record<string, TypedArray>>;
  readonly caches?: Caches | undefined;
}

class SessionEngineHost implements EngineHost {
  readonly #of: EngineSession;
  readonly #done: () => number;
  readonly #shapes: Shapes;
  /** Compares a step with its dry run. */
  readonly compare = compare;

  /** done: number of steps (or runs) so far. */
  constructor(of: EngineSession, shapes: Shapes, done: () => number) {
    this.#of = of;
    this.#shapes = shapes;
    this.#done = done;
  }

  get knobs(): Knobs {
    return this.#of.knobs;
  }

  next(): number {
    return this.#done() + 1;
  }
  shape(): string {
    return this.#shapeNow(this.#shapes.last);
  }

  /** The shape, and the number of the model's public state: a plan holds for both. */
  #shapeNow(shape: string): string {
    return `${shape}, state ${this.#programsOf(shape)
      .map(({ state }) => state)
      .join(' ')}`;
  }

  async carry(changes: readonly Change[]): Promise<() => void> {
    const moves = this.knobs.moves(changes);
    if (moves.length > 0 && this.#of.group)
      throw new UserError('experts cannot be added, removed or moved while a run goes on over ranks');
    const back = await carry(this.#of.executor, moves),
      ages = this.#of.updating.carry(moves);
    return () => {
      ages();
      back();
    };
  }

  /**
   * Runs a part under changes without storing anything. Values that the changes move are moved before it and back
   * after.
   */
  async dryRun(
    changes: readonly Change[],
    { family, graph, inputs, caches }: Tried,
  ): Promise<Record<string, HostTensor>> {
    const { executor, programs, knobs } = this.#of,
      program = await knobs.with(changes, () => programs.get(family, graph, caches)),
      back = await this.carry(changes);
    try {
      return await executor.run(program, { ...inputs, commit: Int32Array.of(0) }, caches);
    } finally {
      back();
    }
  }

  draft(): Draft<object> {
    const { batching } = this.#of,
      { model, changes } = draftOf(this.#of.model, this.#of.named),
      session = draftOf(batching, { paths: new Map([[batching, SESSION]]) });
    return {
      model,
      ...(!batching.eager && { session: session.model }),
      changes: () => [...changes(), ...session.changes()],
    };
  }

  prepare(changes: readonly Change[]): Prepared {
    const made = this.#prepared(changes, (family, graph) => this.#of.programs.begin(family, graph));
    if (!made) throw new Error('a program that could be traced was not begun');
    return made;
  }

  resize(changes: readonly Change[]): Prepared | null {
    return this.#prepared(changes, (family) => this.#of.programs.beginResized(family));
  }

  #prepared(
    changes: readonly Change[],
    begin: (family: string, graph: () => Graph) => Compiling | null,
  ): Prepared | null {
    const programs = this.#of.programs,
      now = new Map([...this.#shapes.seen.keys()].map((shape) => [shape, this.#shapeNow(shape)])),
      shapes = new Set(now.values());
    return this.knobs.with(changes, () => {
      const plans = [...this.#shapes.seen].flatMap(([shape, all]) =>
        all().map((p) => ({ ...p, shape, key: programs.key(p.family) })),
      );
      const cached = plans.every(({ key }) => programs.has(key)),
        drop = (): void => {
          for (const { key } of plans) programs.drop(key);
        };
      try {
        const coming: Promise<void>[] = [];
        for (const { family, graph, key } of plans) {
          if (programs.has(key)) continue;
          const begun = begin(family, graph);
          if (!begun) return null;
          coming.push(begun.ready);
        }
        const ready = Promise.all(coming).then(() => undefined);
        ready.catch(drop);
        const largest = (): number => Math.max(...plans.map(({ key }) => programs.bytes(key)));
        let bytes = largest();
        return {
          cached,
          ready,
          drop,
          has: (shape) => shapes.has(shape),
          bytes: () => bytes,
          load: (runsNext) => {
            for (const { key } of plans) programs.load(key, runsNext);
            bytes = largest();
          },
          kernels: (shape) =>
            kernelsOf(
              programs,
              plans.filter((p) => now.get(p.shape) === shape).map((p) => p.key),
            ),
        };
      } catch (error) {
        drop();
        throw error;
      }
    });
  }

  kernels(): string | null {
    return kernelsOf(this.#of.programs, this.#running());
  }

  ready(): boolean {
    return this.#running().every((key) => this.#of.programs.has(key));
  }

  needs(changes: readonly Change[]): number {
    return this.knobs.with(changes, () =>
      Math.max(
        0,
        ...[...this.#shapes.seen.values()]
          .flatMap((all) => all())
          .map(({ family, graph }) => this.#of.programs.needs(family, graph)),
      ),
    );
  }

  budget(): { bytes: number; given: boolean } {
    const { bytes, given } = this.#of.programs.budget();
    return { bytes: given ? bytes : (this.#of.group?.agreement.least(bytes) ?? bytes), given };
  }
  trim(): void {
    this.#of.programs.trim(this.#running());
  }

  /** The largest planned bytes over the recent shapes. */
  bytes(): number {
    return Math.max(
      0,
      ...[...this.#shapes.seen.values()]
        .flatMap((all) => all())
        .map(({ family }) => this.#of.programs.bytes(this.#of.programs.key(family))),
    );
  }

  #running(): ProgramKey[] {
    return this.#programsOf(this.#shapes.last);
  }
  #programsOf(shape: string): ProgramKey[] {
    return (this.#shapes.seen.get(shape)?.() ?? []).map(({ family }) => this.#of.programs.key(family));
  }
}

function kernelsOf(programs: Programs, keys: readonly ProgramKey[]): string | null {
  const sets = keys.map((key) => programs.kernels(key));
  return sets.includes(null) || sets.length === 0 ? null : sets.join('\n');
}
