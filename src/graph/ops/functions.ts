// Functions on tensors for models of one's own: the public face of `ops`. What is only of use inside the library stays
// out.
export { abs } from './elementwise/abs.ts';
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
export { add } from './elementwise/add.ts';
export { argMax, argMin } from './reduce/argMax.ts';
export { broadcastTo, padAll, repeat, split, squeeze, stack, tile, unsqueeze } from './shape/arrange.ts';
export { attention, type AttentionCall } from './attention/attention.ts';
export { avgPool2d, type AvgPoolOptions } from './image/avgPool2d.ts';
export { cast } from './elementwise/cast.ts';
export { greater, greaterEqual, isNaN, lessEqual, notEqual } from './elementwise/compare.ts';
export { concat } from './shape/concat.ts';
export { conv2d, type Conv2dOptions } from './image/conv2d.ts';
export { cos } from './elementwise/cos.ts';
export { crossEntropy } from './reduce/crossEntropy.ts';
export { cumulativeMax } from './reduce/cumulativeMax.ts';
export { cumulativeSum } from './reduce/cumulativeSum.ts';
export { div } from './elementwise/div.ts';
export { equal } from './elementwise/equal.ts';
export { erf } from './elementwise/erf.ts';
export { exp } from './elementwise/exp.ts';
export { full, fullLike, onesLike, zerosLike } from './create/fill.ts';
export { flip } from './shape/flip.ts';
export { ceil, floor } from './elementwise/floor.ts';
export { gather } from './shape/gather.ts';
export { gelu } from './elementwise/gelu.ts';
export { iota } from './create/iota.ts';
export { isFinite } from './elementwise/isFinite.ts';
export { layerNorm } from './reduce/layerNorm.ts';
export { less } from './elementwise/less.ts';
export { log } from './elementwise/log.ts';
export { logicalAnd } from './elementwise/logicalAnd.ts';
export { logicalNot } from './elementwise/logicalNot.ts';
export { logicalOr } from './elementwise/logicalOr.ts';
export { logSoftmax } from './reduce/logSoftmax.ts';
export { logSumExp } from './reduce/logSumExp.ts';
export { matmul } from './matmul/matmul.ts';
export { max } from './reduce/max.ts';
export { maximum } from './elementwise/maximum.ts';
export { maxPool2d } from './image/maxPool2d.ts';
export { minimum } from './elementwise/minimum.ts';
export { mul } from './elementwise/mul.ts';
export { neg } from './elementwise/neg.ts';
export { oneHot } from './create/oneHot.ts';
export { pad } from './shape/pad.ts';
export { pow } from './elementwise/pow.ts';
export { relu } from './elementwise/relu.ts';
export { flatten, reshape } from './shape/reshape.ts';
export { rmsNorm } from './reduce/rmsNorm.ts';
export { round } from './elementwise/round.ts';
export { rsqrt } from './elementwise/rsqrt.ts';
export { scatterAdd } from './shape/scatterAdd.ts';
export { sigmoid } from './elementwise/sigmoid.ts';
export { silu } from './elementwise/silu.ts';
export { sin } from './elementwise/sin.ts';
export { slice } from './shape/slice.ts';
export { softmax } from './reduce/softmax.ts';
export { softplus } from './elementwise/softplus.ts';
export { argsort, sort, type SortOptions } from './reduce/sort.ts';
export { sqrt } from './elementwise/sqrt.ts';
export { all, any, min, norm, prod, std } from './reduce/statistics.ts';
export { stopGradient } from './elementwise/stopGradient.ts';
export { sub } from './elementwise/sub.ts';
export { mean, sum, variance } from './reduce/sum.ts';
export { takeAlong } from './shape/takeAlong.ts';
export { tanh } from './elementwise/tanh.ts';
export { topK } from './reduce/topK.ts';
export { transpose } from './shape/transpose.ts';
export { lowerMask, tril, triu } from './create/triangle.ts';
export { where } from './elementwise/where.ts';
