// Tensors that have as many rows as another one, whose number of rows may be known only at run time. The values of the
// other tensor are not read.
import { emit1, scalar, type Tensor } from '../../tensor.ts';

/** int32 [rows of x]: the number of each row. */
export function rowNumbers(x: Tensor): Tensor {
  const rest = x.shape.slice(1).map((_, i) => i + 1),
    like = rest.length > 0 ? emit1('sum', [emit1('iota', [x], { axis: 0 })], { axes: rest }) : x;
  return emit1('iota', [like], { axis: 0 });
}

/** [rows of x, width]: `value` in every element, in the dtype of x. */
export const fullRows = (x: Tensor, width: number, value: number): Tensor =>
  emit1('expand', [scalar(x, value), emit1('oneHot', [rowNumbers(x)], { classes: width })], { axes: [0, 1] });
