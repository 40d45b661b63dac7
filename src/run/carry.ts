// Moves values along with a change of knobs: parameters and their moments are copied or mixed from one part to
// another. In: an executor and moves, between steps; out: a function that undoes all moves to the last bit. If one
// move fails, the earlier ones are undone.
import type { TypedArray } from '../base/dtype.ts';
import { accumulatorName, momentName } from '../optim/updates.ts';
import type { Move, Place } from '../trace/knobs.ts';
import type { Executor } from './executor.ts';

export function carry(executor: Executor, moves: readonly Move[]): () => void {
  const names = new Set(executor.stateNames()),
    done: (() => void)[] = [];
  const back = (): void => {
    for (const undo of done.splice(0).reverse()) undo();
  };
  try {
    for (const { to, from, mix } of moves) {
      for (const kind of kindsOf(names, to.parameter)) {
        const before = read(executor, kind(to.parameter), to);
        // A moment that the source does not have yet is 0, its initial value.
        const values = (place: Place<string>): TypedArray =>
          names.has(kind(place.parameter)) ? read(executor, kind(place.parameter), place) : before.slice().fill(0);
        const source = values(from),
          next = mix ? mixed(source, values(mix.with), mix.share) : source;
        write(executor, kind(to.parameter), to, next);
        done.push(() => {
          write(executor, kind(to.parameter), to, before);
        });
      }
    }
  } catch (error) {
    back();
    throw error;
  }
  return back;
}

/** a + share * (b - a), in float64. If a equals b, the result has the same bits for any share. */
function mixed(a: TypedArray, b: TypedArray, share: number): TypedArray {
  const count = a.length;
  for (let i = 0; i < count; i++) a[i] += share * (b[i] - a[i]);
  return a;
}

/** The states of a parameter (value and moments), each as a function from a parameter's name to the state's name. */
function kindsOf(names: ReadonlySet<string>, parameter: string): ((parameter: string) => string)[] {
  const moments = [...names].flatMap((name) => {
    const [, moment = ''] = name.split('/');
    return name === momentName(moment, parameter) && name !== accumulatorName(parameter) ? [moment] : [];
  });
  return [(p) => p, ...moments.map((moment) => (p: string) => momentName(moment, p))];
}

/**
 * The elements of a place in a state: `runs` runs of `inner` elements each, every `step` elements, starting at `at`.
 * all: the number of elements of the state.
 */
function runsOf(
  executor: Executor,
  state: string,
  { axis, part }: Place<string>,
): { readonly at: number; readonly inner: number; readonly step: number; readonly runs: number; readonly all: number } {
  const { shape } = executor.typeOf(state),
    size = (dims: readonly number[]): number => dims.reduce((n, d) => n * d, 1),
    all = size(shape);
  if (part === null) return { at: 0, inner: all, step: all, runs: 1, all };
  const inner = size(shape.slice(axis + 1));
  return { at: part * inner, inner, step: shape[axis] * inner, runs: size(shape.slice(0, axis)), all };
}

/** Reads a place: a single run directly, several runs through a copy of the whole state. */
function read(executor: Executor, state: string, place: Place<string>): TypedArray {
  const { at, inner, step, runs, all } = runsOf(executor, state, place);
  if (runs === 1) return executor.getPart(state, at, inner);
  const whole = executor.getPart(state, 0, all),
    out = whole.slice(0, runs * inner);
  for (let r = 0; r < runs; r++) out.set(whole.subarray(r * step + at, r * step + at + inner), r * inner);
  return out;
}

function write(executor: Executor, state: string, place: Place<string>, data: TypedArray): void {
  const { at, inner, step, runs, all } = runsOf(executor, state, place);
  if (runs === 1) {
    executor.setPart(state, at, data);
    return;
  }
  const whole = executor.getPart(state, 0, all);
  for (let r = 0; r < runs; r++) whole.set(data.subarray(r * inner, (r + 1) * inner), r * step + at);
  executor.setPart(state, 0, whole);
}
