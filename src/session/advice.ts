// Advice for a plan that needs more memory than there is. In: a model's knobs, a function that plans under the knobs
// in force and gives the bytes, and the memory limit; out: a line for the error's hint.
import { showBytes } from '../plan/print.ts';
import type { Change, Knobs } from '../trace/knobs.ts';

const MAX_CHUNKS = 8; // the same limit as in the policy fitMemory
const WORTH = 0.99; // settings that save less than 1% of the bytes are not mentioned

/** Tries `recompute`, then `recompute` with `chunks`, and says what each would need. null: neither saves memory. */
export function memoryAdvice(knobs: Knobs, needs: () => number, budget: number): string | null {
  const set = (knob: string, to: boolean | number): Change[] =>
    knobs.paths.flatMap((path) => {
      const from = knobs.settings(path)[knob];
      if (from === undefined || from === to) return [];
      const change = { path, knob, from, to };
      // A layer may refuse the setting: some layers have no chunks.
      try {
        knobs.with([change], () => undefined);
      } catch {
        return [];
      }
      return [change];
    });
  const again = set('recompute', true),
    chunks = set('chunks', MAX_CHUNKS),
    now = attempt(needs) ?? Infinity;
  const ways = [
    { text: `recompute: true in ${again.length} modules`, changes: again },
    { text: `with chunks: ${MAX_CHUNKS} in ${chunks.length} layers as well`, changes: [...again, ...chunks] },
  ];
  const found = ways
    .filter(({ changes }) => changes.length > 0)
    .map(({ text, changes }) => ({ text, bytes: attempt(() => knobs.with(changes, needs)) ?? Infinity }))
    .filter(({ bytes }) => bytes < WORTH * now);
  if (found.length === 0) return null;
  const needed = found.map(({ text, bytes }) => `${text} it would need ${showBytes(bytes)}`).join(', ');
  const fits = found.some((f) => f.bytes <= budget);
  return fits ? `${needed}, with the same results: the rule fitMemory sets what fits` : needed;
}

/** The bytes; null where the model cannot be traced under these settings. */
function attempt(needs: () => number): number | null {
  try {
    return needs();
  } catch {
    return null;
  }
}
