// The parts of a matrix above and below its diagonal.
import { ShapeError } from '../../../base/errors.ts';
import { showShape } from '../../../base/shape.ts';
import { scalar, type Tensor } from '../../tensor.ts';
import { less } from '../elementwise/less.ts';
import { iota } from './iota.ts';
import { sub } from '../elementwise/sub.ts';
import { where } from '../elementwise/where.ts';

/** How far each element lies above the diagonal of the last two dimensions: column - row. */
function above(op: string, x: Tensor): Tensor {
  if (x.shape.length < 2) throw new ShapeError(`${op}: needs at least two dimensions, got ${showShape(x.shape)}`);
  return sub(iota(x, -1), iota(x, -2));
}

/**
 * bool of x's shape: column <= row + diagonal of the last two dimensions; true on and below the diagonal by default.
 */
export const lowerMask = (x: Tensor, diagonal = 0): Tensor => less(above('lowerMask', x), diagonal + 1);

/** x [..., m, n] with zeros above the diagonal (the one `diagonal` columns further right). */
export const tril = (x: Tensor, diagonal = 0): Tensor => where(lowerMask(x, diagonal), x, scalar(x, 0));

/** x [..., m, n] with zeros below the diagonal (the one `diagonal` columns further right). */
export const triu = (x: Tensor, diagonal = 0): Tensor => where(less(above('triu', x), diagonal), scalar(x, 0), x);
