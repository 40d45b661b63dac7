// Validation: the mean loss and the metrics over all held-out samples, without dropout. In: a session and data; out:
// the means.
import { MeanLoss } from '../session/means.ts';
import type { Session } from '../session/session.ts';
import type { Experiment, TrainingData } from './experiment.ts';
import { tallyOf } from './metrics.ts';

export interface Validation {
  readonly loss: number;
  readonly metrics: Readonly<Record<string, number>>;
  readonly samples: number;
  /** The number of things that the loss is a mean over; 0: the loss is NaN. */
  readonly count: number;
}

const TOKENS = 4096; // approximate number of tokens in a batch

/** How many samples are held out. */
export async function heldOut(data: TrainingData, context: number): Promise<number> {
  try {
    return await data.batches({ size: 1, context, split: 'validation' }).samples();
  } catch {
    return 0; // there is too little text for one window
  }
}

/**
 * The means over all held-out samples, weighted as the loss counts. null: no samples, or `stops`, asked before
 * each batch, said so.
 */
export async function validate(
  session: Session,
  { config, context, metrics }: Experiment,
  data: TrainingData,
  stops: () => boolean = () => false,
  progress?: (share: number) => void,
): Promise<Validation | null> {
  const count = await heldOut(data, context);
  if (count === 0) return null;
  const size = config.evalBatch ?? batchSize(count, Math.max(config.batch, Math.ceil(TOKENS / Math.max(context, 16))));
  const mean = new MeanLoss();
  const tallies = Object.entries(metrics).map(([name, metric]) => ({ name, tally: tallyOf(metric) }));
  for await (const batch of data.pass({ size, context, split: 'validation' })) {
    if (stops()) return null;
    const found = await session.measure(batch);
    mean.add(found);
    for (const { tally } of tallies) tally.add(found.outputs['output'], batch);
    progress?.(mean.samples / count);
  }
  return { ...mean.result(), metrics: Object.fromEntries(tallies.map(({ name, tally }) => [name, tally.value()])) };
}

/** About `want`, a divisor of `count` if possible: a last batch of another size would need another program. */
function batchSize(count: number, want: number): number {
  for (let d = 0; d <= want / 2; d++) {
    if (count % (want + d) === 0) return want + d;
    if (count % (want - d) === 0) return want - d;
  }
  return Math.min(count, want);
}
