// The table of ops: one row each. Everything that works on ops in general (shape rules, gradients, lowering, devices, the
// conformance tests) finds them here.
import type { Op } from '../op.ts';
import type { OpTable } from '../builder.ts';
import { attentionOp } from './attention.ts';
import { attentionGradKVOp } from './attentionGradKV.ts';
import { attentionGradQOp } from './attentionGradQ.ts';
import { collectOp } from './collect.ts';
import { combineOp } from './combine.ts';
import { dispatchOp } from './dispatch.ts';
import { gatherOp } from './gather.ts';
import { geluOp } from './gelu.ts';
import { groupedMatmulOp } from './groupedMatmul.ts';
import { groupedOuterOp } from './groupedOuter.ts';
import { padOp } from './pad.ts';
import { permuteOp } from './permute.ts';
import { scatterAddOp } from './scatterAdd.ts';
import { sigmoidOp } from './sigmoid.ts';
import { siluOp } from './silu.ts';
import { sliceOp } from './slice.ts';
import { softmaxOp } from './softmax.ts';
import { tanhOp } from './tanh.ts';
import { topKOp } from './topK.ts';
import { updateRowsOp } from './updateRows.ts';
import { addOp } from './add.ts';
import { castOp } from './cast.ts';
import { constantOp } from './constant.ts';
import { crossEntropyOp } from './crossEntropy.ts';
import { divOp } from './div.ts';
import { expOp } from './exp.ts';
import { expandOp } from './expand.ts';
import { isFiniteOp } from './isFinite.ts';
import { lessOp } from './less.ts';
import { logSumExpOp } from './logSumExp.ts';
import { matmulOp } from './matmul.ts';
import { mulOp } from './mul.ts';
import { negOp } from './neg.ts';
import { oneHotOp } from './oneHot.ts';
import { reluOp } from './relu.ts';
import { reshapeOp } from './reshape.ts';
import { rowCountOp } from './rowCount.ts';
import { sqrtOp } from './sqrt.ts';
import { subOp } from './sub.ts';
import { sumOp } from './sum.ts';
import { sumChunksOp } from './sumChunks.ts';
import { transposeOp } from './transpose.ts';
import { whereOp } from './where.ts';

/** Ops differ in the attributes that they take; the table forgets which. */
// eslint-disable-next-line @typescript-eslint/no-explicit-any
const all: readonly Op<any>[] = [
  attentionOp, attentionGradKVOp, attentionGradQOp, collectOp, combineOp, dispatchOp, gatherOp, geluOp, groupedMatmulOp, groupedOuterOp, padOp, permuteOp, scatterAddOp, sigmoidOp, siluOp, sliceOp, softmaxOp, tanhOp, topKOp, updateRowsOp,
  addOp, castOp, constantOp, crossEntropyOp, divOp, expOp, expandOp, isFiniteOp, lessOp, logSumExpOp, matmulOp, mulOp, negOp, oneHotOp, reluOp,
  reshapeOp, rowCountOp, sqrtOp, subOp, sumChunksOp, sumOp, transposeOp, whereOp,
];

export const ops: OpTable = new Map(all.map((op) => [op.name, op as Op]));
