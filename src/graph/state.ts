// What a state of a model is: its name, type, role and physical layout. Parameters, moments of the optimiser, running
// statistics and caches are states.
import type { TensorType } from '../base/shape.ts';

/** What a state is for. It decides about weight decay, precision, and what checkpoints hold. */
export type Role = 'weight' | 'bias' | 'gain' | 'embedding' | 'router' | 'head' | 'moment' | 'running' | 'cache';

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
