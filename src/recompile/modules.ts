// The modules of a model, or of a draft of one, that have a knob: by path.
import { nameParameters } from '../trace/module.ts';
import { knobRules } from '../trace/knobs.ts';

export function modulesOf(model: object, knob: string): Map<string, object> {
  return new Map([...nameParameters(model).paths].filter(([module]) => knob in (knobRules(module) ?? {})).map(([module, path]) => [path, module]));
}
