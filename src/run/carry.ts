// Moves values along with a change of knobs: parameters and their moments are copied or mixed from one part to
// another. In: an executor and moves, between steps; out: a function that undoes all moves to the last bit. All values
// are read first, in one batch; moves are made on the host, in order, and the results are written together. So nobody
// sees some values moved and others not. If a write fails, the earlier ones are undone.
import type { TypedArray } from '../base/dtype.ts';
import { accumulatorName, momentName } from '../optim/updates.ts';
import type { Move, Place } from '../trace/knobs.ts';
import type { Executor, StatePart } from './executor.ts';

/** A part of a state on the host. */
interface Copy extends StatePart {
  readonly before: TypedArray;
  readonly data: TypedArray;
}

export async function carry(executor: Executor, moves: readonly Move[]): Promise<() => void> {
  if (moves.length === 0) return () => undefined;
  const names = new Set(executor.stateNames());
  // The moves of states: those of a parameter's value and of each of its moments.
  const own = moves.flatMap(({ to, from, mix }) =>
    kindsOf(names, to.parameter).map((kind) => {
      const of = (place: Place<string>): Place<string> => ({ ...place, parameter: kind(place.parameter) });
      return { to: of(to), from: of(from), mix: mix && { with: of(mix.with), share: mix.share } };
    }),
  );
  const places = own.flatMap(({ to, from, mix }) => [to, from, ...(mix ? [mix.with] : [])]);
  const copies = await copiesOf(
    executor,
    places.filter((p) => names.has(p.parameter)),
  );
  const changed = new Set<Copy>();
  for (const { to, from, mix } of own) {
    // A moment that the source does not have yet is 0, its initial value.
    const values = (place: Place<string>): TypedArray =>
      names.has(place.parameter) ? gather(executor, copies, place) : gather(executor, copies, to).fill(0);
    const source = values(from);
    changed.add(scatter(executor, copies, to, mix ? mixed(source, values(mix.with), mix.share) : source));
  }
  const done: Copy[] = [],
    back = (): void => {
      for (const { name, at, before } of done.splice(0)) executor.setPart(name, at, before);
    };
  try {
    for (const copy of changed) {
      executor.setPart(copy.name, copy.at, copy.data);
      done.push(copy);
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
  { parameter, axis, part }: Place<string>,
): { readonly at: number; readonly inner: number; readonly step: number; readonly runs: number; readonly all: number } {
  const { shape } = executor.typeOf(parameter),
    size = (dims: readonly number[]): number => dims.reduce((n, d) => n * d, 1),
    all = size(shape);
  if (part === null) return { at: 0, inner: all, step: all, runs: 1, all };
  const inner = size(shape.slice(axis + 1));
  return { at: part * inner, inner, step: shape[axis] * inner, runs: size(shape.slice(0, axis)), all };
}

/**
 * Copies of all places, by state. Where every place of a state is a single run of the same size, there is a copy of
 * each; otherwise one of the whole state, because places may overlap.
 */
async function copiesOf(
  executor: Executor,
  places: readonly Place<string>[],
): Promise<ReadonlyMap<string, readonly Copy[]>> {
  const parts = new Map<string, StatePart>();
  for (const name of new Set(places.map((p) => p.parameter))) {
    const own = places.filter((p) => p.parameter === name).map((p) => runsOf(executor, p)),
      whole = own.some(({ runs, inner }) => runs > 1 || inner !== own[0].inner);
    for (const { at, inner, all } of own) {
      const part = whole ? { name, at: 0, count: all } : { name, at, count: inner };
      parts.set(`${part.at} ${name}`, part);
    }
  }
  const list = [...parts.values()],
    read = await executor.getParts(list),
    copies = new Map<string, Copy[]>();
  list.forEach((part, i) => {
    const copy = { ...part, before: read[i], data: read[i].slice() },
      of = copies.get(part.name);
    if (of) of.push(copy);
    else copies.set(part.name, [copy]);
  });
  return copies;
}

type Copies = Awaited<ReturnType<typeof copiesOf>>;

/** The copy that holds a place, and the place's runs in the copy's data. */
function find(executor: Executor, copies: Copies, place: Place<string>): { copy: Copy; views: TypedArray[] } {
  const { at, inner, step, runs } = runsOf(executor, place),
    copy = copies.get(place.parameter)?.find((c) => c.at <= at && at + inner <= c.at + c.count);
  if (!copy) throw new Error(`${place.parameter} was not copied`);
  const views = Array.from({ length: runs }, (_, r) => {
    const start = at - copy.at + r * step;
    return copy.data.subarray(start, start + inner);
  });
  return { copy, views };
}

/** A new array with the values of a place. */
function gather(executor: Executor, copies: Copies, place: Place<string>): TypedArray {
  const { copy, views } = find(executor, copies, place),
    inner = views.length === 0 ? 0 : views[0].length,
    out = copy.data.slice(0, views.length * inner);
  views.forEach((view, r) => {
    out.set(view, r * inner);
  });
  return out;
}

/** Sets the values of a place in its copy, which it returns. */
function scatter(executor: Executor, copies: Copies, place: Place<string>, data: TypedArray): Copy {
  const { copy, views } = find(executor, copies, place);
  views.forEach((view, r) => {
    view.set(data.subarray(r * view.length, (r + 1) * view.length));
  });
  return copy;
}
