// How the ranks of a session agree on recompilations (recompile/agreement.ts): a few bytes of each rank, gathered at
// the boundary of a step. What rules see is the same on every rank but for times and free memory.
import { hashHex } from '../base/hash.ts';
import { gatherNumbers, type Ranks } from '../device/ranks.ts';
import type { Agreement } from '../recompile/agreement.ts';

export function rankAgreement(ranks: Ranks): Agreement {
  return {
    reduceStats(own, decided) {
      const hash = hashHex(decided),
        all = gatherNumbers(ranks, [own.ms, Number(`0x${hash.slice(0, 8)}`), Number(`0x${hash.slice(8, 16)}`)]);
      if (all.some(([, high, low]) => high !== all[0][1] || low !== all[0][2])) disagreed(ranks, decided);
      return Promise.resolve({ ...own, ms: Math.max(...all.map(([ms]) => ms)) });
    },
    agree(own) {
      const votes = gatherNumbers(ranks, [Number(own.failed), Number(own.ready), Number(own.exclusive)]);
      return Promise.resolve({
        failed: votes.some(([failed]) => failed === 1),
        ready: votes.every(([, ready]) => ready === 1),
        exclusive: votes.some(([, , exclusive]) => exclusive === 1),
      });
    },
    least: (bytes) => Math.min(...gatherNumbers(ranks, [bytes]).map(([own]) => own)),
  };
}

/** Ends the run on every rank: a rule that depends on something that differs between them cannot go on. */
function disagreed(ranks: Ranks, decided: string): never {
  try {
    ranks.same('what rules decided', decided);
  } catch (error) {
    ranks.abort(error);
  }
  throw new Error('the ranks decided differently, but what they decided is equal as text');
}
