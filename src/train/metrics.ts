// Metrics: numbers about a model's output besides the loss, measured during validation. A metric that is a mean over
// samples is a function of one batch. Others (ratios, roots) need all batches, so they keep a tally.
import type { Batch, HostTensor } from '../base/tensor.ts';
import { UserError } from '../base/errors.ts';

/** A metric that is a mean over a batch: a function of output and batch. */
export interface MeanMetric {
  (output: HostTensor, batch: Batch): number;
  /**
   * The number of items that the mean is over, which is the weight of the batch; default: its samples (the first
   * dimension of x). Batches with 0 items are ignored.
   */
  readonly count?: (batch: Batch) => number;
}
/** The state of a metric during a pass over the data. */
export interface Tally {
  add(output: HostTensor, batch: Batch): void;
  value(): number;
}
export interface TallyMetric {
  tally(): Tally;
}
export type Metric = MeanMetric | TallyMetric;

/** A tally of any metric; means of batches are weighted by their counts. */
export function tallyOf(metric: Metric): Tally {
  if (typeof metric !== 'function') return metric.tally();
  const { count = ({ x }: Batch): number => x.shape[0] } = metric;
  let total = 0,
    all = 0;
  return {
    add(output, batch) {
      const n = count(batch);
      if (!(n >= 0 && n < Infinity)) {
        const hint = 'count: (batch) => the number of items that the mean of this batch is over';
        throw new UserError(`a metric's count must be a number of at least 0, got ${String(n)}`, hint);
      }
      all += n;
      if (n > 0) total += metric(output, batch) * n; // the metric of an empty batch may be NaN
    },
    value: () => total / all,
  };
}

/** A metric that is a mean over targets, so that a batch's weight is its number of targets. */
function overTargets(metric: (output: HostTensor, batch: Batch) => number): MeanMetric {
  const own = (output: HostTensor, batch: Batch): number => metric(output, batch);
  return Object.assign(own, { count: ({ y }: Batch) => y.data.length });
}

/** A metric without the rows whose target is `target`, such as the `ignoreIndex` of the loss: output [..., classes],
 * targets int32 [...]. NaN if no row is left. */
export function ignoring(target: number, metric: Metric): TallyMetric {
  return {
    tally() {
      const tally = tallyOf(typeof metric !== 'function' || metric.count ? metric : overTargets(metric));
      let some = false;
      return {
        add(output, { x, y }) {
          const { classes } = rowsOf('ignoring', output, y);
          const rows = Array.from(y.data.keys()).filter((r) => y.data[r] !== target);
          if (rows.length === 0) return;
          some = true;
          const data = output.data.slice(0, rows.length * classes);
          rows.forEach((r, i) => {
            data.set(output.data.subarray(r * classes, (r + 1) * classes), i * classes);
          });
          const kept = { ...y, shape: [rows.length], data: Int32Array.from(rows, (r) => y.data[r]) };
          tally.add({ ...output, shape: [rows.length, classes], data }, { x, y: kept });
        },
        value: () => (some ? tally.value() : NaN),
      };
    },
  };
}

interface Rows {
  readonly classes: number;
  readonly rows: number;
}

/** The sizes of output [..., classes] and targets int32 [...]. Throws UserError if they do not fit together. */
function rowsOf(name: string, output: HostTensor, y: HostTensor): Rows {
  const classes = output.shape.at(-1) ?? 1,
    rows = y.data.length;
  if (output.data.length !== rows * classes)
    throw new UserError(`${name}: output [${output.shape.join(', ')}] does not fit ${rows} targets`);
  return { classes, rows };
}

function sameSize(name: string, output: HostTensor, y: HostTensor): number {
  if (output.data.length !== y.data.length)
    throw new UserError(`${name}: output [${output.shape.join(', ')}] and target [${y.shape.join(', ')}] differ`);
  return y.data.length;
}

function largest(data: ArrayLike<number>, row: number, classes: number): number {
  let best = 0;
  for (let c = 1; c < classes; c++) if (data[row * classes + c] > data[row * classes + best]) best = c;
  return best;
}

/** The share of rows whose largest output is the target: output [..., classes], targets int32 [...]. */
export const accuracy: MeanMetric = overTargets((output, { y }) => {
  const { classes, rows } = rowsOf('accuracy', output, y);
  let right = 0;
  for (let row = 0; row < rows; row++) if (largest(output.data, row, classes) === y.data[row]) right++;
  return right / rows;
});

/** The share of rows whose target is among the k largest outputs, ties to the lower class: output [..., classes],
 * targets int32 [...]. */
export function topKAccuracy(k: number): MeanMetric {
  if (!Number.isInteger(k) || k < 1)
    throw new UserError(`topKAccuracy: k must be a whole number of at least 1, got ${k}`);
  return overTargets((output, { y }) => {
    const { classes, rows } = rowsOf('topKAccuracy', output, y);
    let right = 0;
    for (let row = 0; row < rows; row++) {
      const target = y.data[row],
        own = output.data[row * classes + target];
      let before = 0;
      for (let c = 0; c < classes; c++) {
        const other = output.data[row * classes + c];
        if (other > own || (other === own && c < target)) before++;
      }
      if (before < k && own === own) right++;
    }
    return right / rows;
  });
}

/** counts[target][predicted] over the rows of output [..., classes] and targets int32 [...]. */
export function confusionMatrix(output: HostTensor, targets: HostTensor): number[][] {
  const { classes, rows } = rowsOf('confusionMatrix', output, targets),
    counts = Array.from({ length: classes }, () => new Array<number>(classes).fill(0));
  for (let row = 0; row < rows; row++) {
    const target = targets.data[row];
    if (!(target >= 0 && target < classes))
      throw new UserError(`confusionMatrix: target ${target} is none of ${classes} classes`);
    counts[target][largest(output.data, row, classes)]++;
  }
  return counts;
}

export interface ClassScores {
  readonly precision: number;
  readonly recall: number;
  readonly f1: number;
}

/** Precision, recall and their harmonic mean (F1) for each class of a confusion matrix; 0 where a divisor is 0. */
export function classScores(counts: readonly (readonly number[])[]): ClassScores[] {
  const share = (part: number, whole: number): number => (whole === 0 ? 0 : part / whole);
  return counts.map((row, c) => {
    const hits = row[c],
      precision = share(
        hits,
        counts.reduce((n, r) => n + r[c], 0),
      ),
      recall = share(
        hits,
        row.reduce((a, b) => a + b, 0),
      );
    return { precision, recall, f1: share(2 * precision * recall, precision + recall) };
  });
}

/** The mean over classes of one score, of all batches together. */
const macro = (score: keyof ClassScores): TallyMetric => ({
  tally() {
    let counts: number[][] | undefined;
    return {
      add(output, { y }) {
        const more = confusionMatrix(output, y);
        counts = counts ? counts.map((row, i) => row.map((n, j) => n + more[i][j])) : more;
      },
      value() {
        const scores = classScores(counts ?? []);
        return scores.reduce((total, s) => total + s[score], 0) / scores.length;
      },
    };
  },
});

/** Means over classes: output [..., classes], targets int32 [...]. */
export const precision: TallyMetric = macro('precision');
/** Recall: the mean over classes of the share of a class's samples that are predicted as that class. */
export const recall: TallyMetric = macro('recall');
/** The mean over classes of 2 precision recall / (precision + recall). */
export const f1: TallyMetric = macro('f1');

/** e to the mean cross-entropy in nats: output (logits) [..., classes], targets int32 [...]. */
export const perplexity: TallyMetric = {
  tally() {
    let total = 0,
      count = 0;
    return {
      add(output, { y }) {
        const { classes, rows } = rowsOf('perplexity', output, y);
        for (let row = 0; row < rows; row++) {
          const logits = Array.from(output.data.subarray(row * classes, (row + 1) * classes)),
            max = logits.reduce((a, b) => Math.max(a, b), -Infinity);
          total += max + Math.log(logits.reduce((s, x) => s + Math.exp(x - max), 0)) - logits[y.data[row]];
        }
        count += rows;
      },
      value: () => Math.exp(total / count),
    };
  },
};

/** Mean absolute difference of output and target, which have the same number of elements. */
export const meanAbsoluteError: MeanMetric = overTargets((output, { y }) => {
  const n = sameSize('meanAbsoluteError', output, y);
  let total = 0;
  for (let i = 0; i < n; i++) total += Math.abs(output.data[i] - y.data[i]);
  return total / n;
});

/**
 * Coefficient of determination, 1 - sum((y - output)^2) / sum((y - mean y)^2), of all batches together; NaN if all
 * targets are equal.
 */
export const r2: TallyMetric = {
  tally() {
    let rest = 0,
      mean = 0,
      spread = 0,
      count = 0;
    return {
      add(output, { y }) {
        const n = sameSize('r2', output, y);
        for (let i = 0; i < n; i++) {
          rest += (y.data[i] - output.data[i]) ** 2;
          // Welford's update, which loses no precision by cancellation.
          const deviation = y.data[i] - mean;
          mean += deviation / ++count;
          spread += deviation * (y.data[i] - mean);
        }
      },
      value: () => (spread === 0 ? NaN : 1 - rest / spread),
    };
  },
};
