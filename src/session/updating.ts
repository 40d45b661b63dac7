// How a session updates each of its parameters: which are trained, the settings of the optimiser's groups, and the
// ages of moments. In: the model's parameters and the optimiser; out: options of the update graph, and the scalars of
// a step.
import type { TypedArray } from '../base/dtype.ts';
import { UserError } from '../base/errors.ts';
import { PARTS } from '../base/parts.ts';
import { Ages, partsOf, type Frozen, type Missed } from '../optim/ages.ts';
import { hasSettings, settingsOf, type ParameterSettings } from '../optim/groups.ts';
import type { Optimizer } from '../optim/optimizer.ts';
import { momentShapesOf } from '../optim/moments.ts';
import { agedName, float64Scalar, momentName, type UpdateOptions } from '../optim/updates.ts';
import type { Knobs, Move } from '../trace/knobs.ts';
import type { Named } from '../trace/module.ts';
import { freezesSoFar, type Parameter } from '../trace/parameter.ts';
import { frozenIn } from './frozen.ts';

/**
 * The part of it that a checkpoint stores: in how many parts sums over samples are added (absent: 1); by parameter,
 * settings from groups and how many steps the moments have missed.
 */
export interface UpdatingState {
  readonly parts?: number;
  readonly groups?: Readonly<Record<string, Omit<ParameterSettings, 'role'>>>;
  readonly missed?: Readonly<Record<string, Missed>>;
}

/**
 * Where the value of a moment comes from when a session is restored: from the checkpoint, from before, or from
 * nowhere.
 */
export type Moments = (state: string) => 'given' | 'kept' | 'none';

const NONE: ReadonlyMap<string, number | null> = new Map();

export class Updating {
  readonly #optimizer: Optimizer | undefined;
  readonly #parameters: ReadonlyMap<string, Parameter>;
  readonly #trained: ReadonlyMap<string, Parameter>;
  readonly #knobs: Pick<Knobs, 'kept'>;
  readonly #settled: ReadonlyMap<string, ParameterSettings>;
  readonly #ages = new Ages();
  #parts = PARTS;
  /** Cache of `frozen()` for models without settings that freeze; valid until something writes `Parameter.frozen`. */
  #cachedFrozen: { readonly writes: number; readonly frozen: ReadonlyMap<string, Frozen> } | null = null;

  constructor({ parameters }: Named, optimizer: Optimizer | undefined, knobs: Pick<Knobs, 'kept'>) {
    this.#optimizer = optimizer;
    this.#parameters = parameters;
    this.#knobs = knobs;
    this.#trained = new Map([...parameters].filter(([, p]) => p.trained));
    this.#settled = optimizer ? settingsOf(optimizer, this.#trained) : new Map();
  }

  /** What the next step does not change: by `Parameter.frozen`, settings of modules, or groups of the optimiser. */
  frozen(): ReadonlyMap<string, Frozen> {
    const kept = this.#knobs.kept(),
      writes = freezesSoFar();
    if (kept.length === 0 && this.#cachedFrozen?.writes === writes) return this.#cachedFrozen.frozen;
    const grouped = [...this.#settled].filter(([, { frozen }]) => frozen);
    const frozen: ReadonlyMap<string, Frozen> = new Map<string, Frozen>([
      ...frozenIn(this.#parameters, kept),
      ...grouped.map(([name]) => [name, { parts: true, axis: 0 }] as const),
    ]);
    this.#cachedFrozen = kept.length === 0 ? { writes, frozen } : null;
    return frozen;
  }

  /** A text that differs where the update of parameters needs another program. */
  key(): string {
    const aged = this.#aged(),
      parts = this.#parts === PARTS ? '' : ` parts=${this.#parts}`;
    return aged.size === 0 ? parts : `${[...aged].map(([name, axis]) => `${name}@${axis ?? ''}`).join()}${parts}`;
  }

  /** The parameters that are trained, and the options of their update. */
  options(): { readonly trained: string[] } & Required<Pick<UpdateOptions, 'parts' | 'frozen' | 'settled' | 'aged'>> {
    const frozen = this.frozen(),
      trained = [...this.#trained.keys()].filter((name) => frozen.get(name)?.parts !== true);
    return {
      trained,
      parts: this.#parts,
      settled: this.#settled,
      frozen,
      aged: new Map(
        [...this.#aged()].map(([name, axis]) => [
          name,
          this.#shape(name).flatMap((d, i) => (axis === null ? [] : [i === axis ? d : 1])),
        ]),
      ),
    };
  }

  #shape(name: string): readonly number[] {
    return this.#trained.get(name)?.shape ?? [];
  }

  /**
   * Parameters whose moments have missed steps, with the axis along which ages differ, or null for one age. Includes
   * parameters of which a part is frozen now, because ages will differ after this step.
   */
  #aged(): ReadonlyMap<string, number | null> {
    if (!this.#optimizer?.corrected) return NONE;
    const frozen = this.frozen();
    if (frozen.size === 0 && this.#ages.equal) return NONE;
    const aged = new Map<string, number | null>();
    for (const name of this.#trained.keys()) {
      const missed = this.#ages.of(name),
        now = frozen.get(name);
      if (missed !== 0 && now?.parts !== true) aged.set(name, typeof missed === 'number' ? null : missed.axis);
      if (typeof missed === 'number' && now && now.parts !== true) aged.set(name, now.axis);
    }
    return aged;
  }

  /** The scalars of a step, as inputs by name. Throws UserError if one is not finite; nothing has changed then. */
  scalars(step: number): Record<string, TypedArray> {
    const optimizer = this.#optimizer,
      all: Record<string, TypedArray> = {};
    if (!optimizer) return all;
    const add = (name: string, values: readonly number[]): void => {
      all[name] = new Float32Array(values);
      all[float64Scalar(name)] = new Float64Array(values);
      if (values.every((value) => Number.isFinite(Math.fround(value)))) return;
      throw new UserError(
        `the optimizer's ${name} of step ${step + 1} is not finite: ${values.join(', ')}`,
        'a smaller learning rate; a schedule must give finite numbers',
      );
    };
    for (const [name, value] of Object.entries(optimizer.scalars(step))) add(name, [value]);
    for (const [name, axis] of this.#aged()) {
      const missed = partsOf(this.#ages.of(name), axis ?? 0, axis === null ? 1 : this.#shape(name)[axis]);
      const scalars = missed.map((n) => optimizer.scalars(step, step - n));
      for (const scalar of optimizer.corrected ?? [])
        add(
          agedName(scalar, name),
          scalars.map((s) => s[scalar]),
        );
    }
    return all;
  }

  /** Counts a committed step. frozen: as it was when the step began. */
  countStep(frozen: ReadonlyMap<string, Frozen>): void {
    this.#ages.countFrozenStep(frozen);
  }

  /**
   * The session continues from another step. moments: where the value of each moment comes from. saved: of a whole
   * checkpoint.
   */
  restore(from: number, to: number, moments: Moments, saved?: UpdatingState): void {
    if (saved) this.#parts = saved.parts ?? 1;
    const optimizer = this.#optimizer;
    if (!optimizer?.corrected || !optimizer.moments?.length) return;
    this.#ages.restore(
      this.#trained.keys(),
      from,
      to,
      (name) => {
        const kinds = Object.keys(momentShapesOf(optimizer, this.#trained.get(name) as Parameter)),
          found = kinds.map((kind) => moments(momentName(kind, name)));
        return found.includes('none') ? 'none' : found.includes('kept') ? 'kept' : 'given';
      },
      saved?.missed,
    );
  }

  /** Moves the ages of moments along with the moments. Returns a function that reverts this. */
  carry(moves: readonly Move[]): () => void {
    return this.#ages.carry(moves, (name, axis) => this.#trained.get(name)?.shape[axis] ?? 1);
  }

  /** The state for a checkpoint; plain JSON. */
  state(): UpdatingState {
    const groups = [...this.#settled]
        .filter(([, s]) => hasSettings(s))
        .map(([name, { role: _, ...said }]) => [name, said] as const),
      missed = this.#ages.state();
    return {
      parts: this.#parts,
      ...(groups.length > 0 && { groups: Object.fromEntries(groups) }),
      ...(Object.keys(missed).length > 0 && { missed }),
    };
  }
}
