// The table of ops: one row each. Everything that works on ops in general (shape rules, gradients, lowering, devices,
// the conformance tests) finds them here.
import type { Op } from '../op.ts';
import type { OpTable } from '../builder.ts';
import { attentionOp } from './attention/attention.ts';
import { attentionGradOp } from './attention/attentionGrad.ts';
import { attentionGradKVOp } from './attention/attentionGradKV.ts';
import { attentionGradQOp } from './attention/attentionGradQ.ts';
import { ropeOp } from './attention/rope.ts';
import { rowPositionOp } from './attention/rowPosition.ts';
import { checked } from './checked.ts';
import { constantOp } from './create/constant.ts';
import { dropoutOp } from './create/dropout.ts';
import { iotaOp } from './create/iota.ts';
import { oneHotOp } from './create/oneHot.ts';
import { roundStochasticOp } from './create/roundStochastic.ts';
import { uniformOp } from './create/uniform.ts';
import { copyOp } from './elementwise/copy.ts';
import { geluSlopeOp } from './elementwise/geluSlope.ts';
import { avgPool2dOp } from './image/avgPool2d.ts';
import { avgPool2dGradOp } from './image/avgPool2dGrad.ts';
import { conv2dOp } from './image/conv2d.ts';
import { conv2dGradInputOp } from './image/conv2dGradInput.ts';
import { conv2dGradWeightOp } from './image/conv2dGradWeight.ts';
import { depthwise2dOp } from './image/depthwise2d.ts';
import { depthwise2dGradInputOp } from './image/depthwise2dGradInput.ts';
import { depthwise2dGradWeightOp } from './image/depthwise2dGradWeight.ts';
import { maxPool2dOp } from './image/maxPool2d.ts';
import { maxPool2dGradOp } from './image/maxPool2dGrad.ts';
import { maxPool2dTakeOp } from './image/maxPool2dTake.ts';
import { groupedMatmulOp } from './matmul/groupedMatmul.ts';
import { groupedOuterOp } from './matmul/groupedOuter.ts';
import { groupedOuterOntoOp } from './matmul/groupedOuterOnto.ts';
import { matmulOp } from './matmul/matmul.ts';
import { admitOp } from './moe/admit.ts';
import { admitAllOp } from './moe/admitAll.ts';
import { choiceStartsOp } from './moe/choiceStarts.ts';
import { clampCountOp } from './moe/clampCount.ts';
import { collectOp } from './moe/collect.ts';
import { combineOp } from './moe/combine.ts';
import { combineGradRowsOp } from './moe/combineGradRows.ts';
import { combineGradWeightsOp } from './moe/combineGradWeights.ts';
import { combineManyOp } from './moe/combineMany.ts';
import { dispatchOp } from './moe/dispatch.ts';
import { expertCapacityOp } from './moe/expertCapacity.ts';
import { histogramOp } from './moe/histogram.ts';
import { joinRowsOp } from './moe/joinRows.ts';
import { joinSegmentsOp } from './moe/joinSegments.ts';
import { permuteOp } from './moe/permute.ts';
import { permuteUnlessOp } from './moe/permuteUnless.ts';
import { placeRowsOp } from './moe/placeRows.ts';
import { recallOp, recallsOp } from './moe/recall.ts';
import { rememberOp } from './moe/remember.ts';
import { rowCountOp } from './moe/rowCount.ts';
import { segmentCountOp } from './moe/segmentCount.ts';
import { segmentExpandOp } from './moe/segmentExpand.ts';
import { segmentRankOp } from './moe/segmentRank.ts';
import { segmentSumOp } from './moe/segmentSum.ts';
import { segmentSumOntoOp } from './moe/segmentSumOnto.ts';
import { splitRowsOp } from './moe/splitRows.ts';
import { splitSegmentsOp } from './moe/splitSegments.ts';
import { spreadRowsOp } from './moe/spreadRows.ts';
import { sumChunksOp } from './moe/sumChunks.ts';
import { topKUnlessOp } from './moe/topKUnless.ts';
import { windowOffsetsOp } from './moe/windowOffsets.ts';
import { windowRowsOp } from './moe/windowRows.ts';
import { argMaxOp } from './reduce/argMax.ts';
import { crossEntropyOp } from './reduce/crossEntropy.ts';
import { cumulativeMaxOp } from './reduce/cumulativeMax.ts';
import { cumulativeSumOp } from './reduce/cumulativeSum.ts';
import { layerNormOp } from './reduce/layerNorm.ts';
import { logSumExpOp } from './reduce/logSumExp.ts';
import { maxOp } from './reduce/max.ts';
import { rmsNormOp } from './reduce/rmsNorm.ts';
import { softmaxOp } from './reduce/softmax.ts';
import { sortOp } from './reduce/sort.ts';
import { sumOp } from './reduce/sum.ts';
import { topKOp } from './reduce/topK.ts';
import { concatOp } from './shape/concat.ts';
import { expandOp } from './shape/expand.ts';
import { flipOp } from './shape/flip.ts';
import { gatherOp } from './shape/gather.ts';
import { padOp } from './shape/pad.ts';
import { readRowsOp } from './shape/readRows.ts';
import { reshapeOp } from './shape/reshape.ts';
import { scatterAddOp } from './shape/scatterAdd.ts';
import { sliceOp } from './shape/slice.ts';
import { scatterAddPartsOp } from './shape/scatterAddParts.ts';
import { sortInGroupsOp } from './shape/sortIndices.ts';
import { putAlongOp, takeAlongOp } from './shape/takeAlong.ts';
import { transposeOp } from './shape/transpose.ts';
import { updateRowsOp } from './shape/updateRows.ts';
import * as elementwise from './elementwise/index.ts';

/** Ops differ in the attributes that they take; the table forgets which. */
// eslint-disable-next-line @typescript-eslint/no-explicit-any
const all: readonly Op<any>[] = [
  ...Object.values(elementwise).map((f) => f.op),
  admitOp,
  admitAllOp,
  argMaxOp,
  attentionOp,
  attentionGradOp,
  attentionGradKVOp,
  attentionGradQOp,
  avgPool2dOp,
  avgPool2dGradOp,
  choiceStartsOp,
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
  crossEntropyOp,
  cumulativeMaxOp,
  cumulativeSumOp,
  depthwise2dOp,
  depthwise2dGradInputOp,
  depthwise2dGradWeightOp,
  dispatchOp,
  expertCapacityOp,
  dropoutOp,
  expandOp,
  flipOp,
  gatherOp,
  geluSlopeOp,
  groupedMatmulOp,
  groupedOuterOp,
  groupedOuterOntoOp,
  histogramOp,
  iotaOp,
  joinRowsOp,
  joinSegmentsOp,
  layerNormOp,
  logSumExpOp,
  matmulOp,
  maxOp,
  maxPool2dOp,
  maxPool2dGradOp,
  maxPool2dTakeOp,
  oneHotOp,
  roundStochasticOp,
  padOp,
  permuteOp,
  permuteUnlessOp,
  placeRowsOp,
  putAlongOp,
  readRowsOp,
  recallOp,
  recallsOp,
  rememberOp,
  reshapeOp,
  rmsNormOp,
  ropeOp,
  rowPositionOp,
  rowCountOp,
  scatterAddOp,
  scatterAddPartsOp,
  segmentCountOp,
  segmentExpandOp,
  segmentRankOp,
  segmentSumOp,
  segmentSumOntoOp,
  sliceOp,
  softmaxOp,
  sortInGroupsOp,
  sortOp,
  splitRowsOp,
  splitSegmentsOp,
  spreadRowsOp,
  sumOp,
  sumChunksOp,
  takeAlongOp,
  topKOp,
  topKUnlessOp,
  transposeOp,
  uniformOp,
  updateRowsOp,
  windowOffsetsOp,
  windowRowsOp,
];

const table = new Map<string, Op>(all.map((op) => [op.name, checked(op as Op)]));
export const ops: OpTable = table;

/** Adds ops that only some programs need, so that the others need not contain them. */
export function addOps(more: readonly Op<never>[]): void {
  for (const op of more) table.set(op.name, checked(op as unknown as Op));
}
