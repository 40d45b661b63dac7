// Functions on tensors for models of one's own: the public face of `ops`. What is only of use inside the library stays
// out.
export * from './elementwise/index.ts';
export {
  clamp,
  elu,
  geluExact,
  hardSigmoid,
  hardSwish,
  leakyRelu,
  logSigmoid,
  sign,
} from './elementwise/activations.ts';
export { argMax, argMin } from './reduce/argMax.ts';
export { broadcastTo, padAll, repeat, split, squeeze, stack, tile, unsqueeze } from './shape/arrange.ts';
export { attention, type AttentionCall } from './attention/attention.ts';
export { avgPool2d, type AvgPoolOptions } from './image/avgPool2d.ts';
export { greater, greaterEqual, isNaN, lessEqual, notEqual } from './elementwise/compare.ts';
export { concat } from './shape/concat.ts';
export { conv2d, type Conv2dOptions } from './image/conv2d.ts';
export { crossEntropy } from './reduce/crossEntropy.ts';
export { cumulativeMax } from './reduce/cumulativeMax.ts';
export { cumulativeSum } from './reduce/cumulativeSum.ts';
export { fullLike, onesLike, zerosLike } from './create/fill.ts';
export { flip } from './shape/flip.ts';
export { full } from '../tensor.ts';
export { ceil } from './elementwise/floor.ts';
export { gather } from './shape/gather.ts';
export { iota } from './create/iota.ts';
export { layerNorm } from './reduce/layerNorm.ts';
export { logSoftmax } from './reduce/logSoftmax.ts';
export { logSumExp } from './reduce/logSumExp.ts';
export { matmul } from './matmul/matmul.ts';
export { max } from './reduce/max.ts';
export { maxPool2d } from './image/maxPool2d.ts';
export { oneHot } from './create/oneHot.ts';
export { pad } from './shape/pad.ts';
export { flatten, reshape } from './shape/reshape.ts';
export { rmsNorm } from './reduce/rmsNorm.ts';
export { scatterAdd } from './shape/scatterAdd.ts';
export { slice } from './shape/slice.ts';
export { softmax } from './reduce/softmax.ts';
export { argsort, sort, type SortOptions } from './reduce/sort.ts';
export { all, any, min, norm, prod, std } from './reduce/statistics.ts';
export { mean, sum, variance } from './reduce/sum.ts';
export { takeAlong } from './shape/takeAlong.ts';
export { topK } from './reduce/topK.ts';
export { transpose } from './shape/transpose.ts';
export { lowerMask, tril, triu } from './create/triangle.ts';
