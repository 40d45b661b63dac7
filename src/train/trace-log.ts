// A Logger that records the loads of all experts, for the policy lab. In: a run's events; out: the lines of a trace. If
// a run is resumed from a checkpoint, its trace is continued; recorded steps after the checkpoint are removed, because
// they are computed again.
import { accessSync, appendFileSync, constants, existsSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { UserError } from '../base/errors.ts';
import { EventLog } from '../io/event-log.ts';
import { fault, shownPath } from '../io/fault.ts';
import { linesOf } from '../io/lines.ts';
import { headerLine, layersOfModel, stepLine } from '../recompile/lab/trace.ts';
import type { Logger } from './logger.ts';
import { ConfigError } from './config-error.ts';

/**
 * Throws UserError if the model has no mixture-of-experts layer, if the file cannot be written, or if the file exists
 * and is not the trace of a run that is resumed.
 */
export function traceLog(
  path: string,
  model: object,
  { resumed = false }: { readonly resumed?: boolean } = {},
): Logger {
  const layers = layersOfModel(model);
  if (layers.length === 0)
    throw new ConfigError(
      'there are no loads to trace: the model has no mixture-of-experts layer',
      'leave --trace out',
    );
  checkWritable(path);
  if (!resumed && isFilled(path)) refuse(path);
  let begun = false;
  const write = (text: string): void => {
    if (begun && !existsSync(path))
      throw new UserError(`${shownPath(path)} is gone`, 'it was removed while the run went on');
    append(text);
  };
  const append = (text: string): void => {
    try {
      appendFileSync(path, text);
    } catch (error) {
      throw fault('write', path, error);
    }
  };
  return {
    async init({ step }) {
      if (isFilled(path) && !(resumed && (await canContinue(path, step, headerLine(layers))))) refuse(path);
      // A run that was killed before its first checkpoint starts again at step 0, and its trace too. A pipe cannot be
      // continued.
      if (isFile(path)) await (await EventLog.open(path, step)).close();
      if (!isFilled(path)) write(`${headerLine(layers)}\n`);
      begun = true;
    },
    log(event) {
      if (event.event !== 'step' || !event.load) return;
      const { load } = event;
      write(
        `${stepLine(
          event.step,
          layers.map((l) => load[l.path] ?? new Array<number>(l.experts).fill(0)),
        )}\n`,
      );
    },
  };
}

function checkWritable(path: string): void {
  const there = existsSync(path);
  if (there && statSync(path).isDirectory())
    throw new UserError(`cannot write ${shownPath(path)}: it is a folder`, 'name a file');
  try {
    accessSync(there ? path : dirname(path), constants.W_OK);
  } catch (error) {
    throw fault('write', path, error);
  }
}

const isFile = (path: string): boolean => !existsSync(path) || statSync(path).isFile();
const isFilled = (path: string): boolean => existsSync(path) && statSync(path).isFile() && statSync(path).size > 0;

function refuse(path: string): never {
  throw new UserError(
    `${shownPath(path)} exists already`,
    'name another file for --trace; only a run that is continued with --resume continues its trace',
  );
}

/**
 * Whether the file is a trace that the run may continue. For a run that starts at step 0, its header must be the same.
 */
async function canContinue(path: string, step: number, header: string): Promise<boolean> {
  for await (const [first = ''] of linesOf(path))
    return step === 0 ? first === header : first.startsWith('{"event":"trace"');
  return false;
}
