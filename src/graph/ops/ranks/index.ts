// The ops of programs that run over ranks: one row each. A program adds them to the table of all ops (addOps).
import type { Op } from '../../op.ts';
import { exchangeRowsOp } from './exchangeRows.ts';
import { gatherRanksOp } from './gatherRanks.ts';
import { joinRanksOp } from './joinRanks.ts';
import { ownOffsetsOp } from './ownOffsets.ts';
import { ownPartOp } from './ownPart.ts';
import { rankCountsOp } from './rankCounts.ts';
import { rankRowsOp } from './rankRows.ts';
import { relayOp } from './relay.ts';
import { rowSegmentsOp } from './rowSegments.ts';

export const rankOps: readonly Op<never>[] = [
  exchangeRowsOp,
  gatherRanksOp,
  joinRanksOp,
  ownOffsetsOp,
  ownPartOp,
  rankCountsOp,
  rankRowsOp,
  relayOp,
  rowSegmentsOp,
];
