// What would make a plan fit that has no room. In: a model's knobs, and what a plan under other settings of them needs;
// out: a line for the hint.
import { showBytes } from '../plan/print.ts';
import type { Change, Knobs } from '../trace/knobs.ts';

const MOST = 8; // chunks: as many as fitMemory sets
const WORTH = 0.99; // less is not worth a line

/** Asks for plans, which are made for it. null: no knob helps. */
export function roomier(knobs: Knobs, needs: () => number, budget: number): string | null {
  const set = (knob: string, to: boolean | number): Change[] =>
    knobs.paths.flatMap((path) => {
      const from = knobs.settings(path)[knob];
      if (from === undefined || from === to) return [];
      const change = { path, knob, from, to };
      // Some layers have no chunks.
      try {
        knobs.with([change], () => undefined);
      } catch {
        return [];
      }
      return [change];
    });
  const again = set('recompute', true),
    chunks = set('chunks', MOST),
    now = attempt(needs) ?? Infinity;
  const ways = [
    { text: `recompute: true in ${again.length} modules`, changes: again },
    { text: `with chunks: ${MOST} in ${chunks.length} layers as well`, changes: [...again, ...chunks] },
  ];
  const found = ways
    .filter(({ changes }) => changes.length > 0)
    .map(({ text, changes }) => ({ text, bytes: attempt(() => knobs.with(changes, needs)) ?? Infinity }))
    .filter(({ bytes }) => bytes < WORTH * now);
  if (found.length === 0) return null;
  return `${found.map(({ text, bytes }) => `${text} it would need ${showBytes(bytes)}`).join(', ')}${found.some((f) => f.bytes <= budget) ? ', with the same results: the rule fitMemory sets what fits' : ''}`;
}

/** null where it cannot be traced so. */
function attempt(needs: () => number): number | null {
  try {
    return needs();
  } catch {
    return null;
  }
}
