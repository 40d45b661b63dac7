// What must be true of a run that was interrupted, and of one that was resumed. In: its folder. Out: nothing, or a
// broken promise.
import { readdir, readFile } from 'node:fs/promises';
import { parseTrace } from '../../src/recompile/lab/trace.ts';
import { assertPromise } from '../part.ts';
import type { Ended } from './dynamoe.ts';
import { eventsIn, lossesOf, readAsDash, tensorBoardLosses } from './run-files.ts';
import { compareWithWhole, type Whole } from './small-run.ts';

export const GOES_ON = 'a run that was killed can be resumed';

/** The process of a run that nothing disturbed ended without failure. */
export function checkEnded({ code, stderr }: Ended): void {
  assertPromise(GOES_ON, code === 0, () => `exit code ${code}: ${stderr}`);
}

/** The folder of a run that was interrupted is readable. */
export async function checkReadable(out: string): Promise<void> {
  const events = await eventsIn(out, true);
  lossesOf(events);
  if (events.length > 0) await readAsDash(out);
}

/** A run that was interrupted, and resumed to its end, has all that an uninterrupted one has. trace: its file. */
export async function checkResumed(out: string, whole: Whole, trace: string | null): Promise<void> {
  await compareWithWhole(out, whole);
  await readAsDash(out);
  const shown = await tensorBoardLosses(out),
    missing = whole.losses.flatMap((loss, i) => (shown.get(i + 1) === Math.fround(loss) ? [] : [i + 1]));
  assertPromise(
    'TensorBoard shows every step of a run that was killed and resumed',
    missing.length === 0,
    () =>
      `${missing.length} of ${whole.losses.length} steps are missing or have another loss, the first is ${missing[0]}`,
  );
  if (trace !== null) {
    const { loads } = parseTrace(await readFile(trace, 'utf8'), 'trace.jsonl');
    assertPromise(
      'the trace of a run that was killed and resumed has every step',
      loads.length === whole.losses.length,
      () => `${loads.length} of ${whole.losses.length} steps`,
    );
  }
  const left = (await readdir(out)).filter((name) => name.endsWith('.tmp') || name.startsWith('lock.'));
  assertPromise(
    'no files of a killed process are left after the run has ended',
    left.length === 0,
    () => `left: ${left.join(', ')}`,
  );
}
