// Which moments an optimiser keeps of a parameter.
import { isOfExperts, type Parameter } from '../trace/parameter.ts';
import type { Optimizer } from './optimizer.ts';

type Moments = Pick<Optimizer, 'moments' | 'momentShapes'>;

/** The moments of a parameter by name, with their shapes. */
export const momentShapesOf = (optimizer: Moments | undefined, p: Parameter): Readonly<Record<string, Shape>> =>
  optimizer?.momentShapes?.({ shape: p.shape, role: p.role, experts: isOfExperts(p) }) ??
  Object.fromEntries((optimizer?.moments ?? []).map((name) => [name, p.shape]));
type Shape = readonly number[];
