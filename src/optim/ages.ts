// The age of moments: the number of steps in which a parameter's moments were updated. It is smaller than the session's
// number of steps if the parameter, or a part of it, was frozen for some steps, or if a checkpoint without moments was
// loaded. Bias correction uses this age. Stored is how many steps each parameter, or each part of it along a dimension,
// has missed; most have missed none.
import { own } from '../base/own.ts';
import type { Move, Place } from '../trace/knobs.ts';

/**
 * Steps that were missed: by all of a parameter, or by each part of it along `axis`. Negative: the moments are older
 * than the session.
 */
export type Missed = number | { readonly axis: number; readonly parts: readonly number[] };

/** What a step does not update: all of a parameter, or the parts along `axis` that are true. */
export interface Frozen {
  readonly parts: true | readonly boolean[];
  readonly axis: number;
}

/** The missed steps of each of `count` parts along an axis. */
export const partsOf = (missed: Missed, axis: number, count: number): number[] =>
  typeof missed === 'number' || missed.axis !== axis
    ? new Array<number>(count).fill(mostMissed(missed))
    : [...missed.parts];

/** The most steps that any part has missed. */
const mostMissed = (missed: Missed): number => (typeof missed === 'number' ? missed : Math.max(...missed.parts));

export class Ages {
  #missed = new Map<string, Missed>();

  /** Whether no parameter has missed a step. */
  get equal(): boolean {
    return this.#missed.size === 0;
  }

  of(name: string): Missed {
    return this.#missed.get(name) ?? 0;
  }

  #set(name: string, missed: Missed): void {
    // Parts that have the same age again stay separate, so that their programs stay the same.
    if (missed === 0) this.#missed.delete(name);
    else this.#missed.set(name, missed);
  }

  /** Counts a committed step that did not update these parameters. */
  countFrozenStep(frozen: ReadonlyMap<string, Frozen>): void {
    for (const [name, { parts, axis }] of frozen) {
      const now = this.of(name);
      if (parts !== true)
        this.#set(name, { axis, parts: partsOf(now, axis, parts.length).map((n, i) => n + Number(parts[i])) });
      else this.#set(name, typeof now === 'number' ? now + 1 : { ...now, parts: now.parts.map((n) => n + 1) });
    }
  }

  /**
   * Moves the session from step `from` to step `to`. `moments`: whether a parameter's moments were 'given' by a
   * checkpoint of that step, were 'kept' unchanged by the session, or do not exist ('none'). saved: a result of
   * `state`.
   */
  restore(
    names: Iterable<string>,
    from: number,
    to: number,
    moments: (name: string) => 'given' | 'kept' | 'none',
    saved?: Readonly<Record<string, Missed>>,
  ): void {
    for (const name of names) {
      const now = this.of(name),
        later = to - from;
      switch (moments(name)) {
        case 'given':
          this.#set(name, own(saved, name) ?? 0);
          break;
        case 'kept':
          this.#set(name, typeof now === 'number' ? now + later : { ...now, parts: now.parts.map((n) => n + later) });
          break;
        case 'none':
          this.#set(name, to);
          break;
      }
    }
  }

  /** For a checkpoint: plain JSON. */
  state(): Record<string, Missed> {
    return Object.fromEntries(this.#missed);
  }

  /**
   * Copies ages where moments are copied. If two moments are mixed, the new age is their weighted mean, rounded.
   * `count`: the number of parts of a parameter along an axis. Returns a function that undoes this.
   */
  carry(moves: readonly Move[], count: (parameter: string, axis: number) => number): () => void {
    const before = new Map(this.#missed),
      at = ({ parameter, axis, part }: Place<string>): number => {
        const missed = this.of(parameter);
        return part === null || typeof missed === 'number' || missed.axis !== axis
          ? mostMissed(missed)
          : missed.parts[part];
      };
    for (const { to, from, mix } of moves) {
      const source = at(from),
        value = mix ? Math.round(source + mix.share * (at(mix.with) - source)) : source;
      if (value === at(to)) continue;
      if (to.part === null) this.#set(to.parameter, value);
      else
        this.#set(to.parameter, {
          axis: to.axis,
          parts: partsOf(this.of(to.parameter), to.axis, count(to.parameter, to.axis)).map((n, i) =>
            i === to.part ? value : n,
          ),
        });
    }
    return () => {
      this.#missed = before;
    };
  }
}
