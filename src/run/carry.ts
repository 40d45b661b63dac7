// Values that go with a change of knobs: parameters, and what the optimiser keeps for each, are copied or mixed from one part to another.
// In: an executor and moves, between steps; out: a function that takes all of it back, to the last bit. All or nothing: where one fails, those
// before it are taken back.
import type { TypedArray } from '../base/dtype.ts';
import { momentName, accumulatorName } from '../optim/updates.ts';
import type { Move, Place } from '../trace/knobs.ts';
import type { Executor } from './executor.ts';

/** What was read of a state from `at` on, and where the elements of a place lie in it. */
interface Part { readonly state: string; readonly at: number; readonly data: TypedArray; readonly count: number; index(i: number): number }

export function carry(executor: Executor, moves: readonly Move[]): () => void {
  const names = new Set(executor.stateNames()), done: Pick<Part, 'state' | 'at' | 'data'>[] = [];
  const back = (): void => { for (const { state, at, data } of done.splice(0).reverse()) executor.setPart(state, at, data); };
  try {
    for (const { to, from, mix } of moves) {
      for (const kind of kindsOf(names, to.parameter)) {
        const target = partOf(executor, kind(to.parameter), to), before = target.data.slice();
        // A moment that the other has not got yet is 0, as it would start.
        const values = (place: Place<string>): ((i: number) => number) => {
          if (!names.has(kind(place.parameter))) return () => 0;
          const { data, index } = partOf(executor, kind(place.parameter), place);
          return (i) => Number(data[index(i)]);
        };
        const source = values(from), other = mix && values(mix.with);
        for (let i = 0; i < target.count; i++) {
          const own = source(i);
          // Of two that are equal it is the same to the last bit, whatever the share.
          target.data[target.index(i)] = mix && other ? own + mix.share * (other(i) - own) : own;
        }
        done.push({ ...target, data: before });
        executor.setPart(target.state, target.at, target.data);
      }
    }
  } catch (error) {
    back();
    throw error;
  }
  return back;
}

/** The states of a parameter: its value and its moments, as names that hold for other parameters too. */
function kindsOf(names: ReadonlySet<string>, parameter: string): ((parameter: string) => string)[] {
  const moments = [...names].flatMap((name) => {
    const [, moment = ''] = name.split('/');
    return name === momentName(moment, parameter) && name !== accumulatorName(parameter) ? [moment] : [];
  });
  return [(p) => p, ...moments.map((moment) => (p: string) => momentName(moment, p))];
}

/** Parts along the first dimension lie together and are read alone; of others the whole state is read. */
function partOf(executor: Executor, state: string, { axis, part }: Place<string>): Part {
  const { shape } = executor.typeOf(state), size = (dims: readonly number[]): number => dims.reduce((n, d) => n * d, 1), all = size(shape);
  if (part === null) return { state, at: 0, data: executor.getPart(state, 0, all), count: all, index: (i) => i };
  const inner = size(shape.slice(axis + 1)), outer = size(shape.slice(0, axis)), count = outer * inner;
  if (outer === 1) return { state, at: part * inner, data: executor.getPart(state, part * inner, inner), count, index: (i) => i };
  return { state, at: 0, data: executor.getPart(state, 0, all), count, index: (i) => (Math.floor(i / inner) * shape[axis] + part) * inner + (i % inner) };
}
