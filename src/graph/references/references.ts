// What a reference is: an op computed in float64, in plain loops. Devices are compared with it.
import type { RefCall } from '../op.ts';
import type { OpAttrs } from '../op-attrs.ts';

/** Functions by the names of ops: float64 arrays in and out, with integers and bools as numbers. */
export type References = { readonly [N in keyof OpAttrs]?: (call: RefCall<OpAttrs[N]>) => Float64Array[] };
