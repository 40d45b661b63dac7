// Values that a session is given by name, for its parameters and other states: whether they fit.
import { UserError } from '../base/errors.ts';
import { isFloat } from '../base/dtype.ts';
import { listed } from '../base/words.ts';
import { isParameter } from '../graph/state.ts';
import type { Optimizer } from '../optim/optimizer.ts';
import { ownerOf } from '../optim/updates.ts';
import type { Executor } from '../run/executor.ts';
import type { Named } from '../trace/module.ts';
import type { Precision } from './platform.ts';
import { storedDtype } from './precision.ts';
import type { StateView, Value } from './states.ts';
import type { UpdatingState } from './updating.ts';

/** The parts of a session that checkpoints read and write. */
export interface Saved {
  readonly named: Named;
  readonly executor: Pick<Executor, 'stateNames' | 'setState' | 'typeOf' | 'wide'>;
  readonly options: {
    readonly optimizer?: Optimizer;
    readonly precision?: Precision;
    readonly seed?: number;
    readonly say?: (line: string) => void;
  };
  readonly steps: number;
  readonly seed: number;
  states(): StateView[];
  updating(): UpdatingState;
  plan(): object;
}

/** What is restored besides values, when a whole checkpoint is loaded. */
export interface Resumed {
  readonly seed: number;
  readonly updating: UpdatingState;
}

/**
 * Throws UserError for a value whose name, dtype or shape does not fit the model. where: the source of the values, for
 * the error. states: names without a slash that are not parameters.
 */
export function checkValues(
  { named, executor, options: { precision } }: Pick<Saved, 'named' | 'executor' | 'options'>,
  values: readonly Value[],
  where = 'the checkpoint',
  states?: ReadonlySet<string>,
): void {
  const known = new Set(executor.stateNames());
  for (const { name, value } of values) {
    // A moment has the type of its parameter, also if no step has created the moment yet.
    const own = isParameter(name, states) && (named.parameters.has(name) || !known.has(name)),
      owner = own ? name : ownerOf(name);
    const p = named.parameters.get(owner ?? name) ?? (known.has(name) ? executor.typeOf(name) : value),
      dtype = storedDtype(named, precision, name) ?? p.dtype;
    if (owner !== null && !named.parameters.has(owner)) {
      const what = `${where} does not fit: the model has no parameter ${owner}${owner === name ? '' : ` (${name})`}`;
      throw new UserError(what, `it has ${listed([...named.parameters.keys()], 3)}`);
    }
    // The reference keeps and saves all floats as float64.
    const wide = executor.wide === true && value.dtype === 'float64' && isFloat(dtype);
    if (dtype !== value.dtype && !wide)
      throw new UserError(
        `${name}: ${where} has dtype ${value.dtype}, the model ${dtype}`,
        `convert(value, '${dtype}') converts`,
      );
    if (p.shape.join() !== value.shape.join())
      throw new UserError(`${name}: ${where} has shape [${value.shape.join(', ')}], the model [${p.shape.join(', ')}]`);
  }
}

export function clearStates(executor: Saved['executor'], which: (name: string) => boolean): void {
  for (const name of executor.stateNames().filter(which)) executor.setState(name, executor.typeOf(name), null);
}
