// (to come)
import { rmsNorm } from './rmsNorm.ts';
import { emit1, type Tensor } from '../tensor.ts';
export const layerNorm = (x: Tensor, gain: Tensor, bias: Tensor, eps: number): Tensor => emit1('add', [rmsNorm(x, gain, eps), bias]);
