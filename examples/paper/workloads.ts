// The workloads: models, data, numbers of steps and seeds. With the defaults, all of them take 25 minutes on two cores.
import { readdir } from 'node:fs/promises';
import { loss, optim, UserError, type Model, type Session } from 'dynamoe';
import type { About } from './rows.ts';
import { Classifier, languageModel, skewed, WideLayer, type LayerSettings } from './models.ts';
import { digits, teacher, windows, type Source } from './sources.ts';

export interface Size {
  readonly seeds: number;
  readonly steps: number;
}

export interface Workload {
  readonly id: string;
  readonly title: string;
  readonly unit: 'samples' | 'tokens';
  /** Samples or tokens per batch. */
  readonly units: number;
  readonly experts: About['experts'];
  readonly recurs: About['recurs'];
  readonly usual: Size;
  /** Steps with --full. */
  readonly full: Size;
  /** A turn has the duration of about this many steps of the default row. */
  readonly slice: number;
  /** Learning rates; each has a table of its own. */
  readonly rates: readonly number[];
  readonly accuracy: boolean;
  readonly loss: loss.Loss;
  /** Opens the data. `paths` are those of --data. A UserError says what is missing. */
  source(paths: readonly string[]): Promise<Source>;
  model(layer: LayerSettings): Model;
  optimizer(rate: number): ReturnType<typeof optim.sgd>;
  /** Called after the first program is compiled and before the first step. */
  begin?(session: Session): void;
}

const BATCH = 64,
  LAMBDA = 0.04;

const classifier = (
  id: string,
  experts: number,
  kind: 'dense' | 'conv',
  size: Pick<Workload, 'usual' | 'full' | 'slice' | 'rates'>,
): Workload => ({
  id,
  title:
    `Digits (MNIST), ${experts} ${kind === 'dense' ? 'MLP' : 'CNN'} experts, top-2, lambda ${LAMBDA}, ` +
    `batch ${BATCH}`,
  unit: 'samples',
  units: BATCH,
  experts,
  recurs: true,
  accuracy: true,
  loss: loss.crossEntropy,
  ...size,
  source: async (paths) => digits(await digitsIn(paths), BATCH),
  model: (layer) => new Classifier({ experts, kind, lambda: LAMBDA }, layer),
  optimizer: (lr) => optim.sgd({ lr }),
});

/** The first of the folders that contains images. */
async function digitsIn(paths: readonly string[]): Promise<string> {
  for (const path of paths) {
    const names = await readdir(path).catch((): string[] => []); // a file, or missing: the text workload reports it
    if (names.some((name) => /images[-.]idx3-ubyte(\.gz)?$/.test(name))) return path;
  }
  throw new UserError(
    `it needs the MNIST digits${paths.length > 0 ? `, and there are none in ${paths.join(', ')}` : ''}`,
    '--data FOLDER, with t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte in it, with or without .gz',
  );
}

const WIDE = { width: 1024, hidden: 4096, experts: 16 },
  TOKENS = 256,
  SKEW = 1;
const LM = { size: 12, context: 64 };

export const WORKLOADS: readonly Workload[] = [
  classifier('mlp', 5, 'dense', {
    usual: { seeds: 5, steps: 2500 },
    full: { seeds: 5, steps: 12_500 },
    slice: 100,
    rates: [0.001, 0.05],
  }),
  classifier('mlp8', 8, 'dense', {
    usual: { seeds: 5, steps: 2500 },
    full: { seeds: 5, steps: 12_500 },
    slice: 100,
    rates: [0.001, 0.05],
  }),
  classifier('cnn', 5, 'conv', {
    usual: { seeds: 5, steps: 250 },
    full: { seeds: 5, steps: 1250 },
    slice: 10,
    rates: [0.001, 0.05],
  }),
  {
    id: 'wide',
    title:
      `Random data and a random teacher, ${WIDE.experts} experts ${WIDE.width} -> ${WIDE.hidden} ` +
      `-> ${WIDE.width}, top-2, router biased by -${SKEW} ln(rank), batch ${TOKENS}`,
    unit: 'samples',
    units: TOKENS,
    experts: WIDE.experts,
    recurs: true,
    usual: { seeds: 2, steps: 80 },
    full: { seeds: 5, steps: 256 },
    slice: 4,
    rates: [2],
    accuracy: false,
    loss: loss.meanSquaredError,
    source: () => teacher({ width: WIDE.width, hidden: 32, size: TOKENS, train: 16 * TOKENS, held: 2 * TOKENS }),
    model: (layer) => new WideLayer(WIDE, layer),
    // Updates are fused with gradients, because a bank has 134 million parameters.
    optimizer: (lr) => optim.sgd({ lr, eager: true }),
    begin: ({ executor }) => {
      executor.setState('moe.router.bias', { dtype: 'float32', shape: [WIDE.experts] }, skewed(WIDE.experts, SKEW));
    },
  },
  {
    id: 'lm',
    title: 'Language model of 4 layers, width 128, 8 experts, top-2, on text; batch 12 x 64 bytes',
    unit: 'tokens',
    units: LM.size * LM.context,
    experts: 8,
    recurs: false,
    usual: { seeds: 5, steps: 250 },
    full: { seeds: 5, steps: 1000 },
    slice: 5,
    rates: [0.003],
    accuracy: false,
    loss: loss.crossEntropy,
    source(paths) {
      if (paths.length === 0)
        throw new UserError('it needs text', '--data PATH: files, folders or globs, such as tinyshakespeare.txt');
      return windows(paths, { ...LM, heldBatches: 32 });
    },
    model: languageModel,
    // The learning rate does not depend on the length of the run: with a schedule, slower rows would stop in the middle
    // of it.
    optimizer: (rate) => optim.adamW({ lr: (step) => rate * Math.min(1, (step + 1) / 20), clip: 1 }),
  },
];
