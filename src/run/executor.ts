// What runs Programs: owns the states (parameters, optimiser moments, caches) by name, shares them among programs, and moves
// inputs in and outputs out.
import type { HostTensor } from '../base/tensor.ts';
import { hostArray, type DType, type TypedArray } from '../base/dtype.ts';
import { UserError } from '../base/errors.ts';
import { elements, sizes, showType, type TensorType } from '../base/shape.ts';

/** A graph made ready to run. */
export interface Runnable {
  /** Bytes planned for it beside the states: arena, inputs and outputs, constants. */
  readonly bytes: { readonly arena: number; readonly io: number; readonly constants: number };
}

/** Two implementations: programs on a device (program.ts), and the float64 reference over the graph (reference.ts). */
export interface Executor<R extends Runnable = Runnable> {
  readonly description: string;
  readonly threads: number;
  /** Creates a state or replaces its value; null is 0 everywhere. */
  setState(name: string, type: TensorType, value: HostTensor['data'] | null): void;
  /** Replaces the elements of a state from `at` on. */
  setPart(name: string, at: number, data: HostTensor['data']): void;
  /** Sets float32 states to `std` times the normal numbers of the streams of their names; their values may be used when that is done. */
  draw(states: readonly { readonly name: string; readonly std: number }[], seed: number): Promise<void>;
  getState(name: string): HostTensor;
  /** So many elements of a state from `at` on. */
  getPart(name: string, at: number, count: number): HostTensor['data'];
  /** Its dtype and sizes. */
  typeOf(name: string): { readonly dtype: DType; readonly shape: readonly number[] };
  stateNames(): string[];
  /** without: names that begin so are left out. */
  stateBytes(without?: string): number;
  /** Bytes that are held for intermediate values: room for the largest program that ran. */
  arenaBytes(): number;
  /** Gives back what is held for them beyond so many bytes; a program that needs more takes it again when it runs. */
  trim(bytes: number): void;
  /** Runs with inputs by name; gives the outputs by name. */
  run(runnable: R, inputs: Readonly<Record<string, TypedArray>>): Promise<Record<string, HostTensor>>;
  /** Runs with no effect on states; names the first op whose result is not finite, if one is. */
  diagnose(runnable: R, inputs: Readonly<Record<string, TypedArray>>): Promise<string | null>;
  release(runnable: R): void;
  close(): void;
}

export function checkInput(name: string, type: TensorType, data: TypedArray | undefined): TypedArray {
  if (!data) throw new UserError(`input ${name} is missing: expected ${showType(type)}`);
  const want = hostArray(type.dtype, 0);
  if (data.length !== elements(type.shape) || data.constructor !== want.constructor) {
    throw new UserError(`input ${name}: expected ${showType(type)} as ${want.constructor.name}, got ${data.constructor.name} of ${data.length}`);
  }
  return data;
}

/** Throws where a part does not lie in its state. */
export function checkPart(name: string, type: TensorType, at: number, data: TypedArray): TypedArray {
  const want = hostArray(type.dtype, 0);
  if (at >= 0 && at + data.length <= elements(type.shape) && data.constructor === want.constructor) return data;
  throw new UserError(`state ${name}: ${data.length} elements of ${data.constructor.name} from ${at} on are no part of ${showType(type)}`);
}

export const hostOf = (type: TensorType, data: TypedArray): HostTensor => ({ dtype: type.dtype, shape: sizes(type.shape), data });
