// The table of ops: one row each. Everything that works on ops in general (shape rules, gradients, lowering, devices,
// the conformance tests) finds them here.
import type { Op } from '../op.ts';
import type { OpTable } from '../builder.ts';
import { absOp } from './elementwise/abs.ts';
import { addOp } from './elementwise/add.ts';
import { admitOp } from './moe/admit.ts';
import { admitAllOp } from './moe/admitAll.ts';
import { argMaxOp } from './reduce/argMax.ts';
import { attentionOp } from './attention/attention.ts';
import { attentionGradOp } from './attention/attentionGrad.ts';
import { attentionGradKVOp } from './attention/attentionGradKV.ts';
import { attentionGradQOp } from './attention/attentionGradQ.ts';
import { avgPool2dOp } from './image/avgPool2d.ts';
import { avgPool2dGradOp } from './image/avgPool2dGrad.ts';
import { castOp } from './elementwise/cast.ts';
import { checked } from './checked.ts';
import { clampCountOp } from './moe/clampCount.ts';
import { collectOp } from './moe/collect.ts';
import { combineOp } from './moe/combine.ts';
import { combineGradRowsOp } from './moe/combineGradRows.ts';
import { combineGradWeightsOp } from './moe/combineGradWeights.ts';
import { combineManyOp } from './moe/combineMany.ts';
import { concatOp } from './shape/concat.ts';
import { constantOp } from './create/constant.ts';
import { conv2dOp } from './image/conv2d.ts';
import { conv2dGradInputOp } from './image/conv2dGradInput.ts';
import { conv2dGradWeightOp } from './image/conv2dGradWeight.ts';
import { copyOp } from './elementwise/copy.ts';
import { cosOp } from './elementwise/cos.ts';
import { crossEntropyOp } from './reduce/crossEntropy.ts';
import { cumulativeMaxOp } from './reduce/cumulativeMax.ts';
import { cumulativeSumOp } from './reduce/cumulativeSum.ts';
import { depthwise2dOp } from './image/depthwise2d.ts';
import { depthwise2dGradInputOp } from './image/depthwise2dGradInput.ts';
import { depthwise2dGradWeightOp } from './image/depthwise2dGradWeight.ts';
import { dispatchOp } from './moe/dispatch.ts';
import { divOp } from './elementwise/div.ts';
import { dropoutOp } from './create/dropout.ts';
import { equalOp } from './elementwise/equal.ts';
import { erfOp } from './elementwise/erf.ts';
import { expOp } from './elementwise/exp.ts';
import { expandOp } from './shape/expand.ts';
import { flipOp } from './shape/flip.ts';
import { floorOp } from './elementwise/floor.ts';
import { gatherOp } from './shape/gather.ts';
import { geluOp } from './elementwise/gelu.ts';
import { geluSlopeOp } from './elementwise/geluSlope.ts';
import { groupedMatmulOp } from './matmul/groupedMatmul.ts';
import { groupedOuterOp } from './matmul/groupedOuter.ts';
import { groupedOuterOntoOp } from './matmul/groupedOuterOnto.ts';
import { iotaOp } from './create/iota.ts';
import { isFiniteOp } from './elementwise/isFinite.ts';
import { joinRowsOp } from './moe/joinRows.ts';
import { joinSegmentsOp } from './moe/joinSegments.ts';
import { layerNormOp } from './reduce/layerNorm.ts';
import { lessOp } from './elementwise/less.ts';
import { logOp } from './elementwise/log.ts';
import { logicalAndOp } from './elementwise/logicalAnd.ts';
import { logicalNotOp } from './elementwise/logicalNot.ts';
import { logicalOrOp } from './elementwise/logicalOr.ts';
import { logSumExpOp } from './reduce/logSumExp.ts';
import { matmulOp } from './matmul/matmul.ts';
import { maxOp } from './reduce/max.ts';
import { maximumOp } from './elementwise/maximum.ts';
import { maxPool2dOp } from './image/maxPool2d.ts';
import { maxPool2dGradOp } from './image/maxPool2dGrad.ts';
import { maxPool2dTakeOp } from './image/maxPool2dTake.ts';
import { minimumOp } from './elementwise/minimum.ts';
import { mulOp } from './elementwise/mul.ts';
import { negOp } from './elementwise/neg.ts';
import { oneHotOp } from './create/oneHot.ts';
import { padOp } from './shape/pad.ts';
import { permuteOp } from './moe/permute.ts';
import { permuteUnlessOp } from './moe/permuteUnless.ts';
import { placeRowsOp } from './moe/placeRows.ts';
import { powOp } from './elementwise/pow.ts';
import { readRowsOp } from './shape/readRows.ts';
import { recallOp, recallsOp } from './moe/recall.ts';
import { reluOp } from './elementwise/relu.ts';
import { rememberOp } from './moe/remember.ts';
import { reshapeOp } from './shape/reshape.ts';
import { rmsNormOp } from './reduce/rmsNorm.ts';
import { ropeOp } from './attention/rope.ts';
import { roundOp } from './elementwise/round.ts';
import { rowCountOp } from './moe/rowCount.ts';
import { rsqrtOp } from './elementwise/rsqrt.ts';
import { scatterAddOp } from './shape/scatterAdd.ts';
import { segmentCountOp } from './moe/segmentCount.ts';
import { segmentExpandOp } from './moe/segmentExpand.ts';
import { segmentRankOp } from './moe/segmentRank.ts';
import { segmentSumOp } from './moe/segmentSum.ts';
import { segmentSumOntoOp } from './moe/segmentSumOnto.ts';
import { sigmoidOp } from './elementwise/sigmoid.ts';
import { siluOp } from './elementwise/silu.ts';
import { sinOp } from './elementwise/sin.ts';
import { sliceOp } from './shape/slice.ts';
import { softmaxOp } from './reduce/softmax.ts';
import { softplusOp } from './elementwise/softplus.ts';
import { sortOp } from './reduce/sort.ts';
import { splitRowsOp } from './moe/splitRows.ts';
import { splitSegmentsOp } from './moe/splitSegments.ts';
import { sqrtOp } from './elementwise/sqrt.ts';
import { stopGradientOp } from './elementwise/stopGradient.ts';
import { subOp } from './elementwise/sub.ts';
import { sumOp } from './reduce/sum.ts';
import { sumChunksOp } from './moe/sumChunks.ts';
import { putAlongOp, takeAlongOp } from './shape/takeAlong.ts';
import { tanhOp } from './elementwise/tanh.ts';
import { topKOp } from './reduce/topK.ts';
import { topKUnlessOp } from './moe/topKUnless.ts';
import { transposeOp } from './shape/transpose.ts';
import { uniformOp } from './create/uniform.ts';
import { updateRowsOp } from './shape/updateRows.ts';
import { whereOp } from './elementwise/where.ts';
import { windowOffsetsOp } from './moe/windowOffsets.ts';
import { windowRowsOp } from './moe/windowRows.ts';

/** Ops differ in the attributes that they take; the table forgets which. */
// eslint-disable-next-line @typescript-eslint/no-explicit-any
const all: readonly Op<any>[] = [
  absOp,
  addOp,
  admitOp,
  admitAllOp,
  argMaxOp,
  attentionOp,
  attentionGradOp,
  attentionGradKVOp,
  attentionGradQOp,
  avgPool2dOp,
  avgPool2dGradOp,
  castOp,
  clampCountOp,
  collectOp,
  combineOp,
  combineGradRowsOp,
  combineGradWeightsOp,
  combineManyOp,
  concatOp,
  constantOp,
  conv2dOp,
  conv2dGradInputOp,
  conv2dGradWeightOp,
  copyOp,
  cosOp,
  crossEntropyOp,
  cumulativeMaxOp,
  cumulativeSumOp,
  depthwise2dOp,
  depthwise2dGradInputOp,
  depthwise2dGradWeightOp,
  dispatchOp,
  divOp,
  dropoutOp,
  equalOp,
  erfOp,
  expOp,
  expandOp,
  flipOp,
  floorOp,
  gatherOp,
  geluOp,
  geluSlopeOp,
  groupedMatmulOp,
  groupedOuterOp,
  groupedOuterOntoOp,
  iotaOp,
  isFiniteOp,
  joinRowsOp,
  joinSegmentsOp,
  layerNormOp,
  lessOp,
  logOp,
  logicalAndOp,
  logicalNotOp,
  logicalOrOp,
  logSumExpOp,
  matmulOp,
  maxOp,
  maximumOp,
  maxPool2dOp,
  maxPool2dGradOp,
  maxPool2dTakeOp,
  minimumOp,
  mulOp,
  negOp,
  oneHotOp,
  padOp,
  permuteOp,
  permuteUnlessOp,
  placeRowsOp,
  powOp,
  putAlongOp,
  readRowsOp,
  recallOp,
  recallsOp,
  reluOp,
  rememberOp,
  reshapeOp,
  rmsNormOp,
  ropeOp,
  roundOp,
  rowCountOp,
  rsqrtOp,
  scatterAddOp,
  segmentCountOp,
  segmentExpandOp,
  segmentRankOp,
  segmentSumOp,
  segmentSumOntoOp,
  sigmoidOp,
  siluOp,
  sinOp,
  sliceOp,
  softmaxOp,
  softplusOp,
  sortOp,
  splitRowsOp,
  splitSegmentsOp,
  sqrtOp,
  stopGradientOp,
  subOp,
  sumOp,
  sumChunksOp,
  takeAlongOp,
  tanhOp,
  topKOp,
  topKUnlessOp,
  transposeOp,
  uniformOp,
  updateRowsOp,
  whereOp,
  windowOffsetsOp,
  windowRowsOp,
];

export const ops: OpTable = new Map(all.map((op) => [op.name, checked(op as Op)]));
