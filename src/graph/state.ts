// What a state of a model is: its name, type, role and physical layout. Parameters, moments of the optimiser, running
// statistics and caches are states.
import type { TensorType } from '../base/shape.ts';

/**
 * What a state is for. It decides about weight decay, precision, and what checkpoints hold. sum: of gradients over
 * micro-batches. running: what a module updates itself. choices: what MoE layers remember of earlier batches.
 */
export type Role =
  'weight' | 'bias' | 'gain' | 'embedding' | 'router' | 'head' | 'moment' | 'sum' | 'running' | 'cache' | 'choices';

/**
 * How the elements lie in device memory: row by row; in panels of columns for products that only read them; in blocks
 * with a scale each; in slots for experts. Checkpoints hold the logical value, whatever its layout.
 */
export type Layout = 'rows' | 'panels' | 'blocks' | 'slots';

export interface StateSpec {
  readonly name: string;
  readonly type: TensorType;
  readonly role: Role;
  readonly layout: Layout;
}

/**
 * Prefix of the names of states that are caches: they exist only while a session needs them, and are in no checkpoint.
 */
export const CACHES = 'cache/';

/** By the first part of its name, the role of a state that is no parameter. */
const ROLES: readonly (readonly [prefix: string, role: Role])[] = [
  ['optim/sum/', 'sum'],
  ['optim/', 'moment'],
  [CACHES, 'cache'],
  ['assigned/', 'choices'],
];

/** The role of a state that is no parameter; parameters declare theirs. Other names: states of the caller's graphs. */
export const roleOf = (name: string): Role => ROLES.find(([prefix]) => name.startsWith(prefix))?.[1] ?? 'running';

/** Whether the state of that name is a parameter: it has no slash, and is not in `others`. */
export const isParameter = (name: string, others?: ReadonlySet<string>): boolean =>
  !name.includes('/') && others?.has(name) !== true;
