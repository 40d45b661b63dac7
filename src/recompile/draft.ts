// A draft: what a rule's `alter` gets to write on. It looks like the model, module by module, as that is while the rule
// is asked: with the settings of the session on it. Only knobs can be set, and nothing of the model changes: what was
// set is collected as changes. Parameters are handles: their shapes can be read, their values cannot.
import { UserError } from '../base/errors.ts';
import { Parameter } from '../trace/parameter.ts';
import { knobRules, type Change, type KnobValue } from '../trace/knobs.ts';
import { nameParameters, type Named } from '../trace/module.ts';

const originals = new WeakMap<object, object>();

/** Of drafts' models: how to get at any module at once. */
const roots = new WeakMap<object, (pick: (module: object) => boolean) => Map<string, object>>();

/** The modules of a model, or of a draft of one, that are picked, by path. `pick` is asked about the model's own. */
export function modulesWhere(model: object, pick: (module: object) => boolean): Map<string, object> {
  return roots.get(model)?.(pick) ?? picked(nameParameters(model), pick, (module) => module);
}

const picked = (
  { paths }: Pick<Named, 'paths'>,
  pick: (module: object) => boolean,
  as: (module: object, path: string) => object,
): Map<string, object> =>
  new Map([...paths].filter(([module]) => pick(module)).map(([module, path]) => [path, as(module, path)]));

/** The module that a draft's module stands for; undefined for one that is no draft's. */
export const originalOf = <M extends object>(drafted: M): M | undefined => originals.get(drafted) as M | undefined;

export interface Draft<M extends object> {
  readonly model: M;
  /** The session's own knobs, where there is one: parts in which it goes through a batch. */
  readonly session?: { split: number };
  changes(): Change[];
}

export function draftOf<M extends object>(model: M, named: Pick<Named, 'paths'> = nameParameters(model)): Draft<M> {
  const written = new Map<string, Change>(),
    made = new Map<object, object>();
  const plain = (v: unknown): boolean =>
    ['string', 'number', 'boolean'].includes(typeof v) ||
    (Array.isArray(v) && v.every((x) => ['string', 'number', 'boolean'].includes(typeof x)));

  // A list is set as a whole: what is written into it would be lost, or would reach the model.
  const fixed = (v: unknown): unknown => (Array.isArray(v) ? Object.freeze([...(v as unknown[])]) : v);

  const wrap = (target: object, reached: string): object => {
    // A module that is reached by two ways has one name.
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
    // A proxy must give what a frozen object holds, and not a draft of that: it stands for a copy then.
    const stand: object = !Object.isFrozen(target)
      ? target
      : Array.isArray(target)
        ? [...(target as unknown[])]
        : Object.assign(Object.create(Object.getPrototypeOf(target) as object) as object, target);
    const proxy: object = new Proxy(stand, {
      get(_, key) {
        const own = written.get(at(key));
        if (own) return own.to;
        // Getters of classes with private fields want the real object.
        const value: unknown = Reflect.get(target, key, target);
        // A method would write on the model itself.
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
