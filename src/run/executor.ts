// The interface of executors. An executor owns the states (parameters, optimiser moments, caches) by name, shares them
// among programs, and moves inputs in and outputs out.
import type { HostTensor } from '../base/tensor.ts';
import { arrayKind, type DType, type TypedArray } from '../base/dtype.ts';
import { UserError } from '../base/errors.ts';
import type { Run } from '../base/runs.ts';
import { elements, sizes, showType, type TensorType } from '../base/shape.ts';
import { CACHES, type Layout } from '../graph/state.ts';

/** A loaded graph, ready to run. */
export interface Runnable {
  /** Planned bytes: arena, inputs and outputs, constants. States are not included. */
  readonly bytes: { readonly arena: number; readonly io: number; readonly constants: number };
  /** Names of the states that a run may change. */
  readonly stores: ReadonlySet<string>;
}

/**
 * Caches of one caller: states whose names begin with `cache/`. They are created, all 0, by the first run that uses
 * them.
 */
export interface Caches {
  /** Bytes that the caches take. */
  readonly bytes: number;
  /** Frees their memory when no run uses them any more. Closing again does nothing. */
  close(): void;
}

/** `count` elements of a state, starting at element `at`. */
export interface StatePart {
  readonly name: string;
  readonly at: number;
  readonly count: number;
}

/** A state whose values are drawn: `std` times the normal numbers of a random stream. */
export interface Drawn {
  readonly name: string;
  readonly std: number;
  /** Of a state that is a part of a larger tensor, which numbers of the stream it has; `from` is even. */
  readonly runs?: readonly Run[] | undefined;
}

/**
 * Implemented by program.ts (programs on a device) and reference.ts (float64 interpreter of graphs). A state is
 * identified by name, dtype and sizes: using it with another type throws a UserError that names it. Runs, draws and
 * profiles are executed one after the other. Memory that is released during one is freed after it. A state that the
 * current one may change can be neither read nor written (UserError, thrown or rejected with).
 */
export interface Executor<R extends Runnable = Runnable> {
  readonly description: string;
  readonly threads: number;
  /** It keeps all floats as float64, and gives them so. */
  readonly wide?: true;
  /**
   * Creates a state or replaces its value; null: all elements are 0. Throws UserError if a state of that name has
   * another type.
   */
  setState(name: string, type: TensorType, value: HostTensor['data'] | null): void;
  /** Replaces elements of a state, starting at element `at`. */
  setPart(name: string, at: number, data: HostTensor['data']): void;
  /**
   * Sets float32 states to `std` times the normal numbers of the random stream of `seed` and the state's name. The
   * device must have compiled NORMALS. The values must not be used until the promise resolves.
   */
  draw(states: readonly Drawn[], seed: number): Promise<void>;
  /** Removes states that no loaded program uses. */
  removeStates(names: readonly string[]): void;
  /** The value of a state when this was called. */
  getState(name: string): Promise<HostTensor>;
  /** The same for parts of states, read in one batch. */
  getParts(parts: readonly StatePart[]): Promise<TypedArray[]>;
  /** The value of a state, at once. Throws UserError on devices whose memory the host does not see. */
  peekState(name: string): HostTensor;
  /** The dtype and sizes of a state. */
  typeOf(name: string): { readonly dtype: DType; readonly shape: readonly number[] };
  /** How a state lies in device memory. All other members take and give its logical value. */
  layoutOf(name: string): Layout;
  stateNames(): string[];
  /** Bytes of all states. caches: whether to include all caches; default true. */
  stateBytes(caches?: boolean): number;
  /** Opens caches for one caller, to be passed to `run`. */
  openCaches(): Caches;
  /** Bytes of the caches that a run would have to create. */
  freshCaches(runnable: R, caches?: Caches): number;
  /** Bytes of the arena for intermediate values, which is as large as the largest program needed. */
  arenaBytes(): number;
  /** Shrinks the arena to `bytes`. A program that needs more enlarges it again when it runs. */
  trim(bytes: number): void;
  /**
   * Runs with inputs by name and returns outputs by name. Inputs are read when it is the run's turn; if nothing is
   * running, before this returns. caches: the caller's own; by default those that all such runs share. onInputsRead:
   * called when the inputs will not be read again, by executors that can tell.
   */
  run(
    runnable: R,
    inputs: Readonly<Record<string, TypedArray>>,
    caches?: Caches,
    onInputsRead?: () => void,
  ): Promise<Record<string, HostTensor>>;
  /**
   * Runs again without changing states, and names the first op whose result is not finite, or null. inputs: those of
   * the last run; an executor that called `onInputsRead` uses its own copy.
   */
  diagnose(runnable: R, inputs: Readonly<Record<string, TypedArray>>): Promise<string | null>;
  release(runnable: R): void;
  /** Resolves when nothing is running. */
  idle(): Promise<void>;
  /** Whether something is running. */
  readonly running: boolean;
  /** Calls `work` while nothing is running, in the order of runs. */
  inTurn<T>(work: () => T): Promise<T>;
  /** Frees all memory and closes the device when the current run is done. Closing again does nothing. */
  close(): Promise<void>;
}

/** Whether a state is a cache. */
export const isCache = (name: string): boolean => name.startsWith(CACHES);

/** Throws UserError if a state has another type than expected. */
export function checkState(
  name: string,
  has: TensorType,
  wanted: TensorType,
  sameDtype = has.dtype === wanted.dtype,
): void {
  if (sameDtype && sizes(has.shape).join() === sizes(wanted.shape).join()) return;
  throw new UserError(
    `state ${name} is ${showType(has)}, not ${showType(wanted)}`,
    'a state of another dtype or size needs another name',
  );
}

export const noState = (name: string): UserError => new UserError(`no state named ${name}`);
export const inUse = (name: string): UserError =>
  new UserError(
    `state ${name} is in use: the current run may change it`,
    'await the call before, such as session.step(batch)',
  );
export const isClosed = (what: string): UserError => new UserError(`${what} is closed: its memory was given back`);

export function checkInput(name: string, type: TensorType, data: TypedArray | undefined): TypedArray {
  if (!data) throw new UserError(`input ${name} is missing: expected ${showType(type)}`);
  const want = arrayKind(type.dtype);
  const [first] = type.shape,
    rows = data.length / elements(type.shape.slice(1)),
    // Of rows whose number varies, those that exist are enough.
    fits =
      data.length === elements(type.shape) ||
      (typeof first === 'object' && Number.isInteger(rows) && rows <= first.bound);
  if (!fits || data.constructor !== want) {
    throw new UserError(
      `input ${name}: expected ${showType(type)} as ${want.name}, got ${data.constructor.name} of ` + `${data.length}`,
    );
  }
  // Bools with a row count are not checked: rows past the count may hold anything.
  const bad =
    type.dtype === 'bool' && type.shape.every((d) => typeof d === 'number') ? data.findIndex((v: number) => v > 1) : -1;
  if (bad >= 0) throw new UserError(`input ${name}: element ${bad} of a bool is ${data[bad]}`, '0 or 1');
  return data;
}

/** Throws UserError if the elements (or so many) are not within the state, or have another array type. */
export function checkPart<T extends TypedArray | number>(name: string, type: TensorType, at: number, part: T): T {
  const want = arrayKind(type.dtype),
    [count, has] = typeof part === 'number' ? [part, want] : [part.length, part.constructor];
  if (at >= 0 && at + count <= elements(type.shape) && has === want) return part;
  throw new UserError(`state ${name}: ${count} elements of ${has.name} from ${at} on are no part of ${showType(type)}`);
}

export const hostOf = (type: TensorType, data: TypedArray): HostTensor => ({
  dtype: type.dtype,
  shape: sizes(type.shape),
  data,
});
