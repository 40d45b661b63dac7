// What the executor of a rank does besides running programs: it makes sure that all ranks have the same program, gives
// each program this rank's share of the batch, and tells the other ranks what it found.
import type { TypedArray } from '../base/dtype.ts';
import { hashHex } from '../base/hash.ts';
import { elements, type TensorType } from '../base/shape.ts';
import type { Program } from '../plan/program.ts';
import type { Placement } from './placement.ts';

export class RankRuns {
  readonly #placement: Placement;
  readonly #hashes = new WeakMap<Program, string>();

  constructor(placement: Placement) {
    this.#placement = placement;
  }

  /** Throws RanksError on every rank unless all of them load this program. */
  load(program: Program): void {
    const { steps, slabs, states } = program,
      hash = hashHex(JSON.stringify(program));
    this.#hashes.set(program, hash);
    this.#placement.ranks.same(
      'program',
      `${hash} (${steps.length} steps, ${states.length} states, ${slabs.arena} bytes of arena)`,
    );
  }

  /** Says which program runs next. step: committed steps so far. */
  begin(program: Program, step: number): void {
    this.#placement.ranks.at(step + 1, this.#hashes.get(program) ?? '');
  }

  /**
   * The data of an input of this type: the rank's number, the placement of experts, or this rank's share of what all
   * ranks are given. A rank that needs the whole batch has an input of its size.
   */
  input(name: string, { shape, axes }: TensorType, given: TypedArray | undefined): TypedArray | undefined {
    const { ranks } = this.#placement,
      own = elements(shape);
    if (name === 'rank') return Int32Array.of(ranks.rank);
    if (name.startsWith('slots/')) return this.#placement.slots(own);
    if (axes?.[0] !== 'batch' || given?.length !== ranks.size * own) return given;
    return given.subarray(ranks.rank * own, (ranks.rank + 1) * own);
  }

  /** Whether `own` is true on every rank. */
  every(own: boolean): boolean {
    return this.#placement.ranks.gather(Uint8Array.of(own ? 1 : 0)).every(([yes]) => yes === 1);
  }
}
