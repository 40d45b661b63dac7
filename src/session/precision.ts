// In which dtype a session stores a state. rounding.ts rounds graphs accordingly.
import type { DType } from '../base/dtype.ts';
import type { Role } from '../graph/state.ts';
import { momentOf } from '../optim/updates.ts';
import type { Precision } from './platform.ts';
import type { Named } from '../trace/module.ts';

/** Roles of the parameters that 'bfloat16-weights' stores in bfloat16; biases, gains and routers stay float32. */
const STORED: readonly Role[] = ['weight', 'embedding', 'head'];

/** Whether a session of this precision rounds anything to 16 bits. */
export const rounds = (precision: Precision = 'float32'): boolean => precision !== 'float32';

/**
 * The dtype in which a session stores a state: that of the parameter, or bfloat16 as `precision` says. Null for a state
 * that belongs to no parameter.
 */
export function storedDtype(
  { parameters }: Pick<Named, 'parameters'>,
  precision: Precision | undefined,
  state: string,
): DType | null {
  const moment = momentOf(state),
    parameter = parameters.get(moment?.parameter ?? state);
  if (!parameter) return null;
  const { dtype, role } = parameter;
  return precision === 'bfloat16-weights' && dtype === 'float32' && STORED.includes(role) ? 'bfloat16' : dtype;
}
