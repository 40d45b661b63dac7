// Moves values along with a change of knobs: parameters and their moments are copied or mixed from one part to
// another. In: an executor and moves, between steps; out: a function that undoes all moves to the last bit. All values
// are read first, in one batch; moves are made on the host, in order, and the results are written together. So nobody
// sees some values moved and others not. If a write fails, the earlier ones are undone.
import { numbersOf } from '../base/convert.ts';
import type { DType, TypedArray } from '../base/dtype.ts';
import { isHalf, toHalf } from '../base/half.ts';
import { accumulatorName, momentName } from '../optim/updates.ts';
import type { Move, Place } from '../trace/knobs.ts';
import type { Executor, StatePart } from './executor.ts';

/** Where a place lies: `runs` runs of `inner` elements, every `step`, from `start` on, in a part that is copied. */
interface Span extends StatePart {
  readonly start: number;
  readonly inner: number;
  readonly step: number;
  readonly runs: number;
}

/** A part of a state on the host, as it was and as it will be. */
interface Copy extends StatePart {
  readonly before: TypedArray;
  readonly data: TypedArray;
}

export async function carry(executor: Executor, moves: readonly Move[]): Promise<() => void> {
  const names = new Set(executor.stateNames()),
    own = moves.flatMap((move) => movesOfStates(names, move)),
    places = own.flatMap(({ to, from, mix }) => [to, from, ...(mix ? [mix.with] : [])]),
    copies = await copiesOf(
      executor,
      places.filter((place) => names.has(place.parameter)),
    ),
    changed = new Set<Copy>();
  for (const { to, from, mix } of own) {
    const target = runsIn(executor, copies, to);
    // A moment that the source does not have yet is 0, its initial value.
    const values = (place: Place<string>): TypedArray =>
      names.has(place.parameter) ? joined(runsIn(executor, copies, place)) : joined(target).fill(0);
    const source = values(from);
    if (mix) mixInto(source, values(mix.with), mix.share, executor.typeOf(to.parameter).dtype);
    target.views.forEach((view, r) => {
      view.set(source.subarray(r * view.length, (r + 1) * view.length));
    });
    changed.add(target.copy);
  }
  const written: Copy[] = [],
    back = (): void => {
      for (const { name, at, before } of written.splice(0)) executor.setPart(name, at, before);
    };
  try {
    for (const copy of changed) {
      executor.setPart(copy.name, copy.at, copy.data);
      written.push(copy);
    }
  } catch (error) {
    back();
    throw error;
  }
  return back;
}

/** a + share * (b - a), in float64, in place of a. If a equals b, the result has the same bits for any share. */
function mixInto(a: TypedArray, b: TypedArray, share: number, dtype: DType): void {
  const count = a.length,
    [x, y] = [a, b].map((data) => numbersOf({ dtype, data }));
  for (let i = 0; i < count; i++) x[i] += share * (y[i] - x[i]);
  if (isHalf(dtype)) a.set(toHalf(dtype, x));
}

/** The same move for the value of the parameter and for each of its moments. */
function movesOfStates(names: ReadonlySet<string>, { to, from, mix }: Move): Move[] {
  const moments = [...names].flatMap((name) => {
    const [, moment = ''] = name.split('/');
    return name === momentName(moment, to.parameter) && name !== accumulatorName(to.parameter) ? [moment] : [];
  });
  return [null, ...moments].map((moment) => {
    const of = (p: Place<string>): Place<string> =>
      moment === null ? p : { ...p, parameter: momentName(moment, p.parameter) };
    return { to: of(to), from: of(from), ...(mix && { mix: { with: of(mix.with), share: mix.share } }) };
  });
}

/** A single run is copied alone; for several, the whole state is. */
function spanOf(executor: Executor, { parameter: name, axis, part }: Place<string>): Span {
  const { shape } = executor.typeOf(name),
    size = (dims: readonly number[]): number => dims.reduce((n, d) => n * d, 1),
    all = size(shape),
    [inner, runs] = part === null ? [all, 1] : [size(shape.slice(axis + 1)), size(shape.slice(0, axis))],
    first = (part ?? 0) * inner,
    step = all / runs;
  return runs === 1
    ? { name, at: first, count: inner, start: 0, inner, step, runs }
    : { name, at: 0, count: all, start: first, inner, step, runs };
}

const keyOf = ({ name, at }: StatePart): string => `${at} ${name}`;

/** Copies of all places, by key. Different copies of a state do not overlap, because they have the same size. */
async function copiesOf(executor: Executor, places: readonly Place<string>[]): Promise<ReadonlyMap<string, Copy>> {
  const parts = new Map<string, StatePart>(),
    counts = new Map<string, number>();
  for (const span of places.map((place) => spanOf(executor, place))) {
    const { name, count } = span;
    if ((counts.get(name) ?? count) !== count) throw new Error(`parts of ${name} move along several axes`);
    counts.set(name, count);
    parts.set(keyOf(span), span);
  }
  const list = [...parts],
    read = list.length > 0 ? await executor.getParts(list.map(([, part]) => part)) : [];
  return new Map(
    list.map(([key, { name, at, count }], i) => [key, { name, at, count, before: read[i], data: read[i].slice() }]),
  );
}

/** The runs of a place, as views into its copy. */
function runsIn(
  executor: Executor,
  copies: ReadonlyMap<string, Copy>,
  place: Place<string>,
): { copy: Copy; views: TypedArray[] } {
  const span = spanOf(executor, place),
    copy = copies.get(keyOf(span));
  if (!copy) throw new Error(`${place.parameter} was not copied`);
  const { start, inner, step, runs } = span,
    views = Array.from({ length: runs }, (_, r) => copy.data.subarray(start + r * step, start + r * step + inner));
  return { copy, views };
}

/** The values of all runs, in a new array. */
function joined({ copy, views }: { copy: Copy; views: readonly TypedArray[] }): TypedArray {
  const out = copy.data.slice(
    0,
    views.reduce((n, v) => n + v.length, 0),
  );
  let at = 0;
  for (const view of views) {
    out.set(view, at);
    at += view.length;
  }
  return out;
}
