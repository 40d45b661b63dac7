// What runs Programs: owns the states (parameters, optimiser moments, caches) by name, shares them among programs, and
// moves inputs in and outputs out.
import type { HostTensor } from '../base/tensor.ts';
import { hostArray, type DType, type TypedArray } from '../base/dtype.ts';
import { UserError } from '../base/errors.ts';
import { elements, sizes, showType, type TensorType } from '../base/shape.ts';
import { CACHES } from '../trace/trace.ts';

/** A graph made ready to run. */
export interface Runnable {
  /** Bytes planned for it beside the states: arena, inputs and outputs, constants. */
  readonly bytes: { readonly arena: number; readonly io: number; readonly constants: number };
  /** Names of the states that a run of it may change. */
  readonly stores: ReadonlySet<string>;
}

/**
 * Caches of one caller: the states whose names begin with `cache/`, made (all 0) when a program first runs on them.
 * Other callers have others.
 */
export interface Caches {
  /** Bytes that they take. */
  readonly bytes: number;
  /** Gives their memory back, once what runs on them is done. Closing again does nothing. */
  close(): void;
}

/**
 * Two implementations: programs on a device (program.ts), and the float64 reference over the graph (reference.ts). A
 * state is its name, dtype and sizes: who gives or expects another type gets a UserError that names it. Runs, draws and
 * profiles come one after the other; memory that is given back meanwhile is freed when the one under way is done; a
 * state that one may change is neither read nor written beside it (UserError).
 */
export interface Executor<R extends Runnable = Runnable> {
  readonly description: string;
  readonly threads: number;
  /**
   * Creates a state or replaces its value; null is 0 everywhere. Throws UserError where a state of that name has
   * another type.
   */
  setState(name: string, type: TensorType, value: HostTensor['data'] | null): void;
  /** Replaces the elements of a state from `at` on. */
  setPart(name: string, at: number, data: HostTensor['data']): void;
  /**
   * Sets float32 states to `std` times the normal numbers of the streams of their names; their values may be used when
   * that is done.
   */
  draw(states: readonly { readonly name: string; readonly std: number }[], seed: number): Promise<void>;
  /** Forgets states that no program was loaded for. */
  removeStates(names: readonly string[]): void;
  getState(name: string): HostTensor;
  /** So many elements of a state from `at` on. */
  getPart(name: string, at: number, count: number): HostTensor['data'];
  /** Its dtype and sizes. */
  typeOf(name: string): { readonly dtype: DType; readonly shape: readonly number[] };
  stateNames(): string[];
  /** Bytes of all states. caches: with everybody's caches, which is the default. */
  stateBytes(caches?: boolean): number;
  /** Caches of the caller's own, for `run`. */
  openCaches(): Caches;
  /** Bytes of the caches that a run would create. */
  freshCaches(runnable: R, caches?: Caches): number;
  /** Bytes that are held for intermediate values: room for the largest program that ran. */
  arenaBytes(): number;
  /** Gives back what is held for them beyond so many bytes; a program that needs more takes it again when it runs. */
  trim(bytes: number): void;
  /**
   * Runs with inputs by name; gives the outputs by name. Inputs are read when it has its turn: before it returns where
   * nothing is under way. caches: of the caller's own; else those that all such runs share. `fed` is called once the
   * inputs have been read for good, by an executor that can say so.
   */
  run(
    runnable: R,
    inputs: Readonly<Record<string, TypedArray>>,
    caches?: Caches,
    fed?: () => void,
  ): Promise<Record<string, HostTensor>>;
  /**
   * Runs with no effect on states; names the first op whose result is not finite, if one is. inputs: of its last run;
   * an executor that has called `fed` of it has them itself.
   */
  diagnose(runnable: R, inputs: Readonly<Record<string, TypedArray>>): Promise<string | null>;
  release(runnable: R): void;
  /** Resolves when nothing is under way. */
  idle(): Promise<void>;
  /** Gives all memory back, once what is under way is done. */
  close(): void;
}

/** Whether a state is a cache. */
export const isCache = (name: string): boolean => name.startsWith(CACHES);

/** Throws where a state is to be used as another type than it has. */
export function checkState(
  name: string,
  has: TensorType,
  wanted: TensorType,
  sameDtype = has.dtype === wanted.dtype,
): void {
  if (sameDtype && sizes(has.shape).join() === sizes(wanted.shape).join()) return;
  throw new UserError(
    `state ${name} is ${showType(has)}, not ${showType(wanted)}`,
    'a state is its name, dtype and sizes: one of other sizes needs a name of its own',
  );
}

export const noState = (name: string): UserError => new UserError(`no state named ${name}`);
export const inUse = (name: string): UserError =>
  new UserError(
    `state ${name} is in use: what runs now may change it`,
    'await the call before, such as session.step(batch)',
  );
export const isClosed = (what: string): UserError => new UserError(`${what} is closed: its memory was given back`);

export function checkInput(name: string, type: TensorType, data: TypedArray | undefined): TypedArray {
  if (!data) throw new UserError(`input ${name} is missing: expected ${showType(type)}`);
  const want = hostArray(type.dtype, 0);
  if (data.length !== elements(type.shape) || data.constructor !== want.constructor) {
    throw new UserError(
      `input ${name}: expected ${showType(type)} as ${want.constructor.name}, got ${data.constructor.name} of ` +
        `${data.length}`,
    );
  }
  // Rows past a count may hold anything.
  const bad =
    type.dtype === 'bool' && type.shape.every((d) => typeof d === 'number') ? data.findIndex((v: number) => v > 1) : -1;
  if (bad >= 0) throw new UserError(`input ${name}: element ${bad} of a bool is ${data[bad]}`, '0 or 1');
  return data;
}

/** Throws where a part does not lie in its state. */
export function checkPart(name: string, type: TensorType, at: number, data: TypedArray): TypedArray {
  const want = hostArray(type.dtype, 0);
  if (at >= 0 && at + data.length <= elements(type.shape) && data.constructor === want.constructor) return data;
  throw new UserError(
    `state ${name}: ${data.length} elements of ${data.constructor.name} from ${at} on are no part of ` +
      `${showType(type)}`,
  );
}

export const hostOf = (type: TensorType, data: TypedArray): HostTensor => ({
  dtype: type.dtype,
  shape: sizes(type.shape),
  data,
});
