// A knob is a property of a module that may change while the model runs. The class of the module lists its knobs in a
// static `knobs`.

export type KnobValue = string | number | boolean | readonly (string | number | boolean)[];
/** The values of all knobs of one module, by name. */
export type Settings = Readonly<Record<string, KnobValue>>;
/**
 * For each knob: whether the module computes the same bits with the settings `to` as with `from`, which differ in this
 * knob.
 */
export type KnobRules = Readonly<Record<string, (from: Settings, to: Settings, module: object) => boolean>>;

/** The class of an object, even if the object has a property named constructor. */
export const classOf = (object: object): object | undefined =>
  (Object.getPrototypeOf(object) as { readonly constructor?: object } | null)?.constructor;

export const knobRules = (module: object): KnobRules | null =>
  (classOf(module) as { readonly knobs?: KnobRules } | undefined)?.knobs ?? null;
