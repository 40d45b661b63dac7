// Casts to and from 16-bit floats in a graph: where values are rounded, and where they are widened again.
import { isHalf } from '../base/half.ts';
import type { TensorType } from '../base/shape.ts';
import type { Node } from './graph.ts';

/** Whether a node rounds its input to 16 bits. */
export const rounds = ({ op, outputs: [to] }: Node, types: readonly TensorType[]): boolean =>
  op === 'cast' && isHalf(types[to].dtype);

/** Whether a node gives 16-bit floats as float32, which is exact. */
export const widens = ({ op, inputs: [from], outputs: [to] }: Node, types: readonly TensorType[]): boolean =>
  op === 'cast' && isHalf(types[from].dtype) && types[to].dtype === 'float32';
