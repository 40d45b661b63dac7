// Modules: plain objects whose properties are parameters, modules, or lists of modules. Names follow from the names of
// properties.
import { UserError } from '../base/errors.ts';
import { Tensor } from '../graph/tensor.ts';
import { fixedMap } from './fixed-map.ts';
import { knobRules } from './knob.ts';
import { assignDtype, Parameter } from './parameter.ts';

/** An object that makes tensors from tensors; `forward` builds the graph. */
export interface Module<In = never, Out = unknown> {
  forward(x: In): Out;
}

export interface Named {
  readonly parameters: ReadonlyMap<string, Parameter>;
  readonly paths: ReadonlyMap<object, string>;
}

/** Whether a value is an object whose properties belong to a model. */
export const isPart = (value: unknown): value is object =>
  typeof value === 'object' && value !== null && !ArrayBuffer.isView(value) && !(value instanceof Tensor);

/** Whether an object has a path: modules, and other objects with settings. */
export const isModule = (value: object): boolean =>
  typeof (value as { readonly forward?: unknown }).forward === 'function' || knobRules(value) !== null;

/** Names with another meaning: the knobs of a session, and the metadata of a file of tensors. */
const TAKEN = ['@session', '__metadata__'];

/** Why a property that holds a parameter or a module cannot have this name; null if it can. */
function refusal(key: string, path: string): string | null {
  if (key === '') return 'an empty name';
  if (key.includes('.')) return 'a dot, which separates names';
  if (key.includes('/')) return 'a slash, which names of other states have';
  if (/[\p{Cc}\p{Cs}\u2028\u2029]/u.test(key)) return 'a control character or an unpaired surrogate';
  if (key === '__proto__' || (path === '' && TAKEN.includes(key))) return 'a name that means something else';
  return null;
}

/**
 * Dotted names of all parameters (a shared parameter once, under its first name), and paths of all modules below
 * `root`. Throws UserError for a property that holds a parameter or a module and whose name is empty, is `__proto__`,
 * or contains a dot, a slash or a control character.
 */
export function nameParameters(root: object): Named {
  const parameters = new Map<string, Parameter>(),
    paths = new Map<object, string>(),
    seen = new Set<object>();
  const visit = (value: unknown, path: string, bad: string | null): void => {
    if (!isPart(value) || seen.has(value)) return;
    seen.add(value);
    if (bad !== null && (value instanceof Parameter || isModule(value)))
      throw new UserError(bad, 'give the property another name');
    if (value instanceof Parameter) {
      parameters.set(path, value);
      return;
    }
    paths.set(value, path);
    for (const [key, child] of Object.entries(value)) {
      const why = bad === null ? refusal(key, path) : null;
      visit(
        child,
        path ? `${path}.${key}` : key,
        why === null
          ? bad
          : `${path || 'the model'}: a property cannot ` +
              `be named ${JSON.stringify(key)}, with ${why}, where a parameter or a module is in it`,
      );
    }
  };
  visit(root, '', null);
  return Object.freeze({ parameters: fixedMap(parameters), paths: fixedMap(paths) });
}

/**
 * Makes all float parameters of a model (or a layer) `dtype`, also those that are not trained; gives the model. Call it
 * before `compile(model, ...)`: after the first step it throws UserError. A float64 model takes float64 inputs
 * (integers stay integers) and gives float64; moments of the optimizer, losses and norms are float64 too.
 */
export function setDtype<M extends object>(model: M, dtype: 'float32' | 'float64'): M {
  const given: string = dtype;
  if (given !== 'float32' && given !== 'float64')
    throw new UserError(`setDtype: a model is computed in float32 or float64, not in ${given}`);
  for (const p of nameParameters(model).parameters.values()) assignDtype(p, dtype);
  return model;
}
