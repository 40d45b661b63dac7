// Values that go with a change of knobs: parameters, and what the optimiser keeps for each, are copied or mixed from
// one part to another. In: an executor and moves, between steps; out: a function that takes all of it back, to the last
// bit. All or nothing: where one fails, those before it are taken back.
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
        // A moment that the other has not got yet is 0, as it would start.
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

/** a + share * (b - a), in float64: of two that are equal it is the same to the last bit, whatever the share. */
function mixed(a: TypedArray, b: TypedArray, share: number): TypedArray {
  const count = a.length;
  for (let i = 0; i < count; i++) a[i] += share * (b[i] - a[i]);
  return a;
}

/** The states of a parameter: its value and its moments, as names that hold for other parameters too. */
function kindsOf(names: ReadonlySet<string>, parameter: string): ((parameter: string) => string)[] {
  const moments = [...names].flatMap((name) => {
    const [, moment = ''] = name.split('/');
    return name === momentName(moment, parameter) && name !== accumulatorName(parameter) ? [moment] : [];
  });
  return [(p) => p, ...moments.map((moment) => (p: string) => momentName(moment, p))];
}

/** Where a place lies in a state: runs of `inner` elements, every `step`, from `at` on. */
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

/** One run is read or written alone; for more the whole state is. */
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
