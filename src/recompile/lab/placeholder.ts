// A model that computes nothing: an MoE layer at the path of each layer of a trace, so that rules find the knobs where
// the traced model had them.
import { UserError } from '../../base/errors.ts';
import { MoE } from '../../nn/moe/moe.ts';
import { nameParameters, type Named } from '../../trace/module.ts';
import type { TracedLayer } from './trace.ts';

type Place = Record<string, unknown>;

export interface Placeholder {
  readonly model: object;
  readonly named: Named;
  /** The layers, in the order of the trace. */
  readonly moes: readonly MoE[];
}

/** Throws UserError for a layer that cannot be made, or whose path is taken or cannot be the path of a module. */
export function placeholderModel(layers: readonly TracedLayer[]): Placeholder {
  const model = Object.create(null) as Place; // inherits no names, because a layer may have any
  for (const { path, experts, k, capacity, overflow, dispatch, dModel, hidden } of layers) {
    const names = path.split('.'),
      last = names.pop() ?? '',
      at = names.reduce<unknown>(inside, model);
    if (!isPlace(at) || last in at) throw noPlace(path);
    const layer = new MoE({ dModel, experts, topK: k, hidden, capacity, dispatch, balance: 0, zLoss: 0 });
    layer.overflow = overflow; // a dropless layer uses it once it gets a capacity
    at[last] = layer;
  }
  const named = nameParameters(model),
    modules = new Map([...named.paths].map(([module, path]) => [path, module]));
  const moes = layers.map(({ path }) => {
    const found = modules.get(path);
    if (!(found instanceof MoE)) throw noPlace(path);
    return found;
  });
  return { model, named, moes };
}

const isPlace = (at: unknown): at is Place => typeof at === 'object' && at !== null && Object.isExtensible(at);

/** What an object has under a name, made if there is nothing; undefined if the name is one that it inherits. */
function inside(at: unknown, name: string): unknown {
  if (!isPlace(at)) return undefined;
  if (Object.hasOwn(at, name)) return at[name];
  return name in at ? undefined : (at[name] = Object.create(null));
}

const noPlace = (path: string): UserError =>
  new UserError(
    `the trace has no place for a layer at ${JSON.stringify(path)}`,
    'paths of layers are different, and each is the path of a property',
  );
