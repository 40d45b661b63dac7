// A Logger that writes events.jsonl into a folder, as a run's own log is written: for training loops of one's own, whose runs `dynamoe dash` then shows.
import { appendFileSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { EVENTS } from '../io/run-folder.ts';
import type { Logger } from './logger.ts';

/** `folder`: default the run's. A log that is there already is begun anew, but for a run that goes on. */
export function jsonLines(folder?: string): Logger {
  let path = '';
  return {
    init(run) {
      const into = folder ?? run.folder;
      mkdirSync(into, { recursive: true });
      path = join(into, EVENTS);
      if (run.step === 0) writeFileSync(path, '');
    },
    log(event) { appendFileSync(path, `${JSON.stringify(event)}\n`); },
  };
}
