// A Logger that records the loads of all experts, for the policy lab. In: a run's events; out: the lines of a trace. A run that goes on
// from a checkpoint goes on in its file: steps after the checkpoint, which come again, are left out.
import { accessSync, appendFileSync, constants, existsSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { UserError } from '../base/errors.ts';
import { fault } from '../io/fault.ts';
import { headerLine, layersOfModel, stepLine } from '../recompile/lab/trace.ts';
import type { Logger } from './logger.ts';

/** Throws UserError where the model has no mixture-of-experts layer, the file cannot be written, or is there already and this run does not go on with it. */
export function traceLog(path: string, model: object, { resumed = false }: { readonly resumed?: boolean } = {}): Logger {
  const layers = layersOfModel(model);
  if (layers.length === 0) throw new UserError('there are no loads to trace: the model has no mixture-of-experts layer', 'leave --trace out');
  checkWritable(path);
  if (!resumed) refuseIfThere(path);
  return {
    init({ step }) {
      const header = `${headerLine(layers)}\n`;
      // A run that was killed before its first checkpoint begins anew, and so does its trace.
      if (step === 0 && !(resumed && existsSync(path) && readFileSync(path, 'utf8').startsWith(header))) refuseIfThere(path);
      const part = `${path}.${process.pid}.tmp`;
      writeFileSync(part, begun(path, step) ?? header);
      renameSync(part, path);
    },
    log(event) {
      if (event.event !== 'step' || !event.load) return;
      const { load } = event;
      appendFileSync(path, `${stepLine(event.step, layers.map((l) => load[l.path] ?? new Array<number>(l.experts).fill(0)))}\n`);
    },
  };
}

function checkWritable(path: string): void {
  const there = existsSync(path);
  if (there && statSync(path).isDirectory()) throw new UserError(`cannot write ${path}: it is a folder`, 'name a file');
  try { accessSync(there ? path : dirname(path), constants.W_OK); } catch (error) { throw fault('write', path, error); }
}

function refuseIfThere(path: string): void {
  if (existsSync(path) && statSync(path).isFile() && statSync(path).size > 0) throw new UserError(`${path} is there already`, 'name another file for --trace; a run that goes on with --resume goes on in its own');
}

/** The file up to a step; null where there is nothing to go on with. */
function begun(path: string, step: number): string | null {
  if (step === 0 || !existsSync(path)) return null;
  const [header, ...lines] = readFileSync(path, 'utf8').split('\n').filter((line) => line !== '');
  const kept = lines.filter((line) => { try { return (JSON.parse(line) as { step: number }).step <= step; } catch { return false; } });
  return [header, ...kept, ''].join('\n');
}
