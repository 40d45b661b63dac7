// dynamoe bench memory: finds the largest number of experts whose layer trains within a budget. Each number is tried
// in a new process of `dynamoe bench layer`, which reports its peak memory.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { UserError } from '../base/errors.ts';
import { workOf, type LayerFlags, type LayerResult } from './layer.ts';
import { bytes } from '../base/format.ts';
import { NO_MEMORY } from './layer-work.ts';

export interface MemoryFlags extends Omit<LayerFlags, 'experts'> {
  readonly budget: number;
  readonly most: number;
}

interface Trial {
  readonly experts: number;
  readonly peak_bytes: LayerResult['peak_bytes'] | null;
  readonly fits: boolean;
}

export async function benchMemory({ budget, most, json, ...flags }: MemoryFlags): Promise<void> {
  const limit = budget * 2 ** 20,
    trials: Trial[] = [],
    least = flags.topK;
  const largest = await largestThatFits(least, most, async (experts) => {
    const peak_bytes = await layerInProcess({ ...flags, experts }),
      fits = peak_bytes !== null && peak_bytes.rss <= limit;
    trials.push({ experts, peak_bytes, fits });
    process.stderr.write(
      `dynamoe: ${experts} experts: ` +
        `${peak_bytes ? `${bytes(peak_bytes.rss)} resident, ${bytes(peak_bytes.planned)} planned` : 'did not run'}\n`,
    );
    return fits;
  });
  if (largest === null)
    throw new UserError(
      `not even ${least} experts train within ${budget} MiB`,
      'a larger --budget, or a smaller layer',
    );
  const { peak_bytes = null } = trials.find((t) => t.experts === largest) ?? {};
  const { experts: _, ...work } = workOf({ ...flags, experts: largest });
  const result = {
    event: 'memory',
    ...work,
    budget_bytes: limit,
    experts: largest,
    at_most: most,
    peak_bytes,
    trials,
  };
  if (json) process.stdout.write(`${JSON.stringify(result)}\n`);
  else
    process.stdout.write(
      `${largest} experts train within ${bytes(limit)}${largest === most ? ' (no more were tried)' : ''}\n`,
    );
}

/**
 * The largest n from `least` to `most` that fits, found by doubling and then bisection; null if `least` does not fit.
 * Assumes that everything below a number that fits also fits.
 */
export async function largestThatFits(
  least: number,
  most: number,
  fits: (n: number) => Promise<boolean>,
): Promise<number | null> {
  let good = least,
    bad = most + 1;
  if (least > most || !(await fits(least))) return null;
  while (bad - good > 1) {
    const next = bad === most + 1 && good * 2 <= most ? good * 2 : (good + bad) >> 1;
    if (await fits(next)) good = next;
    else bad = next;
  }
  return good;
}

/** Memory that the layer used in its own process; null if the machine has too little. */
async function layerInProcess(flags: LayerFlags): Promise<LayerResult['peak_bytes'] | null> {
  // flags without effect would be refused
  const dropless = flags.capacityFactor === 'dropless',
    forward = flags.pass === 'forward';
  const given = {
    '--tokens': flags.tokens,
    '--d-model': flags.dModel,
    '--d-ff': flags.dFf,
    '--experts': flags.experts,
    '--top-k': flags.topK,
    '--capacity-factor': flags.capacityFactor,
    '--overflow': dropless ? undefined : flags.overflow,
    '--dispatch': flags.dispatch,
    '--skew': flags.skew,
    '--activation': flags.activation,
    '--optimizer': forward ? undefined : flags.optimizer,
    '--pass': flags.pass,
    '--precision': flags.precision,
    '--steps': flags.steps,
    '--chunks': flags.chunks,
    '--device': flags.device,
    '--threads': flags.threads,
  };
  const args = Object.entries(given).flatMap(([name, value]) => (value === undefined ? [] : [name, String(value)]));
  const child = spawn(
    process.execPath,
    [
      ...process.execArgv,
      process.argv[1],
      'bench',
      'layer',
      ...args,
      ...(flags.eager ? ['--eager'] : []),
      ...(flags.recompute ? ['--recompute'] : []),
      '--json',
    ],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  );
  let out = '',
    problem = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    out += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    problem += text;
  });
  const [code] = (await once(child, 'close')) as [number | null];
  if (code === 0) return (JSON.parse(out) as LayerResult).peak_bytes;
  if (problem.includes(NO_MEMORY) || code === null) return null;
  throw new UserError(`a layer of ${flags.experts} experts could not be run: ${problem.trim()}`);
}
