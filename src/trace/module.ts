// Modules: plain objects whose properties are parameters, modules, or lists of modules. Names follow from property names.
import { UserError } from '../base/errors.ts';
import { Parameter } from './parameter.ts';

/** Anything that makes a tensor from tensors; `forward` builds the graph. */
export interface Module<In = never, Out = unknown> { forward(x: In): Out }

export interface Named { readonly parameters: ReadonlyMap<string, Parameter>; readonly paths: ReadonlyMap<object, string> }

/** Dotted names of all parameters (a shared one once, under its first name) and paths of all modules below `root`. */
export function nameParameters(root: object): Named {
  const parameters = new Map<string, Parameter>(), paths = new Map<object, string>(), seen = new Set<object>();
  const visit = (value: unknown, path: string): void => {
    if (typeof value !== 'object' || value === null || seen.has(value) || ArrayBuffer.isView(value)) return;
    seen.add(value);
    if (value instanceof Parameter) {
      if (parameters.has(path)) throw new UserError(`two parameters are named ${path}`);
      parameters.set(path, value);
      return;
    }
    paths.set(value, path);
    for (const [key, child] of Object.entries(value)) {
      if (key.includes('.')) throw new UserError(`${path}: a property named "${key}" would make parameter names ambiguous`);
      visit(child, path ? `${path}.${key}` : key);
    }
  };
  visit(root, '');
  return { parameters, paths };
}
