// A draft: the stand-in for the model that a rule's `alter` may write to. It looks like the model with the settings of
// the session. Only knobs can be set. Nothing is written to the model: the draft collects what was set as changes.
// Shapes of parameters can be read, their values cannot.
import { UserError } from '../base/errors.ts';
import { Parameter } from '../trace/parameter.ts';
import { knobRules, type Change, type KnobValue } from '../trace/knobs.ts';
import { nameParameters, type Named } from '../trace/module.ts';

const originals = new WeakMap<object, object>();

/** For the model of each draft: a function that gives the draft's modules for which `pick` is true, by path. */
const roots = new WeakMap<object, (pick: (module: object) => boolean) => Map<string, object>>();

/** The modules of a model, or of a draft, for which `pick` is true, by path. `pick` gets the model's own modules. */
export function modulesWhere(model: object, pick: (module: object) => boolean): Map<string, object> {
  return roots.get(model)?.(pick) ?? picked(nameParameters(model), pick, (module) => module);
}

const picked = (
  { paths }: Pick<Named, 'paths'>,
  pick: (module: object) => boolean,
  as: (module: object, path: string) => object,
): Map<string, object> =>
  new Map([...paths].filter(([module]) => pick(module)).map(([module, path]) => [path, as(module, path)]));

/** The module that a module of a draft stands for; undefined if the module belongs to no draft. */
export const originalOf = <M extends object>(drafted: M): M | undefined => originals.get(drafted) as M | undefined;

export interface Draft<M extends object> {
  readonly model: M;
  /** The knobs of the session, if there is one: into how many parts it splits a batch. */
  readonly session?: { split: number };
  changes(): Change[];
}

export function draftOf<M extends object>(model: M, named: Pick<Named, 'paths'> = nameParameters(model)): Draft<M> {
  const written = new Map<string, Change>(),
    made = new Map<object, object>();
  const plain = (v: unknown): boolean =>
    ['string', 'number', 'boolean'].includes(typeof v) ||
    (Array.isArray(v) && v.every((x) => ['string', 'number', 'boolean'].includes(typeof x)));

  // Lists are frozen: a write to an element would be lost, or would change the model.
  const fixed = (v: unknown): unknown => (Array.isArray(v) ? Object.freeze([...(v as unknown[])]) : v);

  const wrap = (target: object, reached: string): object => {
    // A module that two properties hold has one path.
    const path = named.paths.get(target) ?? reached,
      found = made.get(target);
    if (found) return found;
    const rules = knobRules(target),
      at = (key: string | symbol): string => (path ? `${path}.${String(key)}` : String(key));
    const refuse = (key: string | symbol, what: string): never => {
      const knobs = Object.keys(rules ?? {});
      throw new UserError(
        `a draft's ${at(key)} cannot be ${what}`,
        knobs.length > 0
          ? `knobs here: ${knobs.join(', ')}`
          : 'only knobs of modules can be set, such as topK of an MoE layer',
      );
    };
    // A proxy of a frozen object must return the object's own property values, not drafts of them. So the proxy stands
    // for a copy that is not frozen.
    const stand: object = !Object.isFrozen(target)
      ? target
      : Array.isArray(target)
        ? [...(target as unknown[])]
        : Object.assign(Object.create(Object.getPrototypeOf(target) as object) as object, target);
    const proxy: object = new Proxy(stand, {
      get(_, key) {
        const own = written.get(at(key));
        if (own) return own.to;
        // Getters that read private fields need the real object as `this`.
        const value: unknown = Reflect.get(target, key, target);
        // A method could write to the model itself.
        if (typeof value === 'function' && key !== 'constructor' && !Array.isArray(target))
          return () => refuse(key, 'called');
        if (typeof key === 'symbol' || typeof value !== 'object' || value === null) return value;
        if (rules && Object.hasOwn(rules, key)) return fixed(value);
        return wrap(value, at(key));
      },
      set(_, key, value: unknown) {
        if (typeof key === 'symbol' || !rules || !Object.hasOwn(rules, key) || target instanceof Parameter)
          return refuse(key, 'set');
        if (!plain(value)) return refuse(key, `set to ${String(value)}`);
        const from = Reflect.get(target, key, target) as KnobValue,
          to = fixed(value) as KnobValue;
        if (JSON.stringify(from) === JSON.stringify(to)) written.delete(at(key));
        else written.set(at(key), { path, knob: key, from, to });
        return true;
      },
      deleteProperty: (_, key) => refuse(key, 'deleted'),
      defineProperty: (_, key) => refuse(key, 'set'),
      setPrototypeOf: () => refuse('prototype', 'set'),
    });
    made.set(target, proxy);
    originals.set(proxy, target);
    return proxy;
  };
  const drafted = wrap(model, '') as M;
  roots.set(drafted, (pick) => picked(named, pick, wrap));
  return { model: drafted, changes: () => [...written.values()] };
}
