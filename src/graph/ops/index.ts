// The table of ops: one row each. Everything that works on ops in general (shape rules, gradients, lowering, devices, the
// conformance tests) finds them here.
import type { Op } from '../op.ts';
import type { OpTable } from '../builder.ts';
import { absOp } from './abs.ts';
import { addOp } from './add.ts';
import { admitOp } from './admit.ts';
import { admitAllOp } from './admitAll.ts';
import { argMaxOp } from './argMax.ts';
import { attentionOp } from './attention.ts';
import { attentionGradOp } from './attentionGrad.ts';
import { attentionGradKVOp } from './attentionGradKV.ts';
import { attentionGradQOp } from './attentionGradQ.ts';
import { avgPool2dOp } from './avgPool2d.ts';
import { avgPool2dGradOp } from './avgPool2dGrad.ts';
import { castOp } from './cast.ts';
import { checked } from './checked.ts';
import { clampCountOp } from './clampCount.ts';
import { collectOp } from './collect.ts';
import { combineOp } from './combine.ts';
import { combineGradRowsOp } from './combineGradRows.ts';
import { combineGradWeightsOp } from './combineGradWeights.ts';
import { combineManyOp } from './combineMany.ts';
import { concatOp } from './concat.ts';
import { constantOp } from './constant.ts';
import { conv2dOp } from './conv2d.ts';
import { conv2dGradInputOp } from './conv2dGradInput.ts';
import { conv2dGradWeightOp } from './conv2dGradWeight.ts';
import { copyOp } from './copy.ts';
import { cosOp } from './cos.ts';
import { crossEntropyOp } from './crossEntropy.ts';
import { cumulativeMaxOp } from './cumulativeMax.ts';
import { cumulativeSumOp } from './cumulativeSum.ts';
import { depthwise2dOp } from './depthwise2d.ts';
import { depthwise2dGradInputOp } from './depthwise2dGradInput.ts';
import { depthwise2dGradWeightOp } from './depthwise2dGradWeight.ts';
import { dispatchOp } from './dispatch.ts';
import { divOp } from './div.ts';
import { dropoutOp } from './dropout.ts';
import { equalOp } from './equal.ts';
import { erfOp } from './erf.ts';
import { expOp } from './exp.ts';
import { expandOp } from './expand.ts';
import { flipOp } from './flip.ts';
import { floorOp } from './floor.ts';
import { gatherOp } from './gather.ts';
import { geluOp } from './gelu.ts';
import { geluSlopeOp } from './geluSlope.ts';
import { groupedMatmulOp } from './groupedMatmul.ts';
import { groupedOuterOp } from './groupedOuter.ts';
import { groupedOuterOntoOp } from './groupedOuterOnto.ts';
import { iotaOp } from './iota.ts';
import { isFiniteOp } from './isFinite.ts';
import { joinRowsOp } from './joinRows.ts';
import { joinSegmentsOp } from './joinSegments.ts';
import { layerNormOp } from './layerNorm.ts';
import { lessOp } from './less.ts';
import { logOp } from './log.ts';
import { logicalAndOp } from './logicalAnd.ts';
import { logicalNotOp } from './logicalNot.ts';
import { logicalOrOp } from './logicalOr.ts';
import { logSumExpOp } from './logSumExp.ts';
import { matmulOp } from './matmul.ts';
import { maxOp } from './max.ts';
import { maximumOp } from './maximum.ts';
import { maxPool2dOp } from './maxPool2d.ts';
import { maxPool2dGradOp } from './maxPool2dGrad.ts';
import { maxPool2dTakeOp } from './maxPool2dTake.ts';
import { minimumOp } from './minimum.ts';
import { mulOp } from './mul.ts';
import { negOp } from './neg.ts';
import { oneHotOp } from './oneHot.ts';
import { padOp } from './pad.ts';
import { permuteOp } from './permute.ts';
import { permuteUnlessOp } from './permuteUnless.ts';
import { placeRowsOp } from './placeRows.ts';
import { powOp } from './pow.ts';
import { readRowsOp } from './readRows.ts';
import { recallOp, recallsOp } from './recall.ts';
import { reluOp } from './relu.ts';
import { rememberOp } from './remember.ts';
import { reshapeOp } from './reshape.ts';
import { rmsNormOp } from './rmsNorm.ts';
import { ropeOp } from './rope.ts';
import { roundOp } from './round.ts';
import { rowCountOp } from './rowCount.ts';
import { rsqrtOp } from './rsqrt.ts';
import { scatterAddOp } from './scatterAdd.ts';
import { segmentCountOp } from './segmentCount.ts';
import { segmentExpandOp } from './segmentExpand.ts';
import { segmentRankOp } from './segmentRank.ts';
import { segmentSumOp } from './segmentSum.ts';
import { segmentSumOntoOp } from './segmentSumOnto.ts';
import { sigmoidOp } from './sigmoid.ts';
import { siluOp } from './silu.ts';
import { sinOp } from './sin.ts';
import { sliceOp } from './slice.ts';
import { softmaxOp } from './softmax.ts';
import { softplusOp } from './softplus.ts';
import { sortOp } from './sort.ts';
import { splitRowsOp } from './splitRows.ts';
import { splitSegmentsOp } from './splitSegments.ts';
import { sqrtOp } from './sqrt.ts';
import { stopGradientOp } from './stopGradient.ts';
import { subOp } from './sub.ts';
import { sumOp } from './sum.ts';
import { sumChunksOp } from './sumChunks.ts';
import { putAlongOp, takeAlongOp } from './takeAlong.ts';
import { tanhOp } from './tanh.ts';
import { topKOp } from './topK.ts';
import { topKUnlessOp } from './topKUnless.ts';
import { transposeOp } from './transpose.ts';
import { uniformOp } from './uniform.ts';
import { updateRowsOp } from './updateRows.ts';
import { whereOp } from './where.ts';
import { windowOffsetsOp } from './windowOffsets.ts';
import { windowRowsOp } from './windowRows.ts';

/** Ops differ in the attributes that they take; the table forgets which. */
// eslint-disable-next-line @typescript-eslint/no-explicit-any
const all: readonly Op<any>[] = [
  absOp, addOp, admitOp, admitAllOp, argMaxOp, attentionOp, attentionGradOp, attentionGradKVOp, attentionGradQOp, avgPool2dOp,
  avgPool2dGradOp, castOp, clampCountOp, collectOp, combineOp, combineGradRowsOp, combineGradWeightsOp, combineManyOp, concatOp,
  constantOp, conv2dOp, conv2dGradInputOp, conv2dGradWeightOp, copyOp, cosOp, crossEntropyOp, cumulativeMaxOp, cumulativeSumOp,
  depthwise2dOp, depthwise2dGradInputOp, depthwise2dGradWeightOp, dispatchOp, divOp, dropoutOp, equalOp, erfOp, expOp, expandOp, flipOp,
  floorOp, gatherOp, geluOp, geluSlopeOp, groupedMatmulOp, groupedOuterOp, groupedOuterOntoOp, iotaOp, isFiniteOp, joinRowsOp, joinSegmentsOp,
  layerNormOp, lessOp, logOp, logicalAndOp, logicalNotOp, logicalOrOp, logSumExpOp, matmulOp, maxOp, maximumOp, maxPool2dOp,
  maxPool2dGradOp, maxPool2dTakeOp, minimumOp, mulOp, negOp, oneHotOp, padOp, permuteOp, permuteUnlessOp, placeRowsOp, powOp, putAlongOp, readRowsOp,
  recallOp, recallsOp, reluOp, rememberOp, reshapeOp, rmsNormOp, ropeOp, roundOp, rowCountOp, rsqrtOp, scatterAddOp, segmentCountOp, segmentExpandOp, segmentRankOp,
  segmentSumOp, segmentSumOntoOp, sigmoidOp, siluOp, sinOp, sliceOp, softmaxOp, softplusOp, sortOp, splitRowsOp, splitSegmentsOp,
  sqrtOp, stopGradientOp, subOp, sumOp, sumChunksOp, takeAlongOp, tanhOp, topKOp, topKUnlessOp, transposeOp, uniformOp, updateRowsOp, whereOp,
  windowOffsetsOp, windowRowsOp,
];

export const ops: OpTable = new Map(all.map((op) => [op.name, checked(op as Op)]));
