// A Logger that writes events.jsonl into a folder, in the format of a run's own log. With it, `dynamoe dash` also shows
// runs of a user's own training loop.
import { appendFileSync, existsSync } from 'node:fs';
import { join } from 'node:path';
import { UserError } from '../base/errors.ts';
import { EventLog } from '../io/event-log.ts';
import { fault, shownPath } from '../io/fault.ts';
import { linesOf } from '../io/lines.ts';
import { makeFolder } from '../io/make-folder.ts';
import { EVENTS } from '../io/run-folder.ts';
import type { Logger } from './logger.ts';

/**
 * `folder`: default the run's. An existing log is overwritten; if a run is resumed, its log is kept up to the step from
 * which it continues. `init` rejects with a UserError if the file is no log.
 */
export function jsonLines(folder?: string): Logger {
  let path = '';
  return {
    async init(run) {
      const into = folder ?? run.folder,
        file = join(into, EVENTS);
      await makeFolder(into);
      if (existsSync(file) && !(await isLog(file)))
        throw new UserError(`${shownPath(file)} is no log of events`, 'choose another folder');
      await (await EventLog.open(file, run.step === 0 ? undefined : run.step)).close();
      path = file;
    },
    log(event) {
      try {
        appendFileSync(path, `${JSON.stringify(event)}\n`);
      } catch (error) {
        throw fault('write', path, error);
      }
    },
  };
}

/** Whether a file is empty, or a line at its beginning is an event. */
async function isLog(path: string): Promise<boolean> {
  for await (const lines of linesOf(path)) {
    return lines.some((line) => {
      try {
        return typeof (JSON.parse(line) as { event?: unknown } | null)?.event === 'string';
      } catch {
        return false;
      }
    });
  }
  return true;
}
