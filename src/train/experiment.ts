// Builds the model, loss, optimiser, dataset and metrics of a run. In: a checked config, and the parts that a config
// file in TypeScript built itself; out: an Experiment.
import { UserError } from '../base/errors.ts';
import type { Batches } from '../data/dataset.ts';
import type { Batch } from '../base/tensor.ts';
import { ArrayDataset } from '../data/arrays.ts';
import { TextDataset, type TextBatchOptions, type TextPassOptions } from '../data/text.ts';
import { text } from '../data/text-files.ts';
import * as losses from '../nn/loss.ts';
import { TransformerLM } from '../nn/transformer.ts';
import { adam, adamW } from '../optim/adam.ts';
import { lion } from '../optim/lion.ts';
import type { Optimizer, Schedule } from '../optim/optimizer.ts';
import { warmupCosine } from '../optim/schedule.ts';
import { muon } from '../optim/muon.ts';
import { sgd } from '../optim/sgd.ts';
import type { Rule } from '../recompile/rule.ts';
import type { Model } from '../session/step.ts';
import type { Logger } from './logger.ts';
import type { Metric } from './metrics.ts';
import { ConfigError } from './config-error.ts';
import { FLOOR, type Config, type ModelConfig } from './schema.ts';

/** A dataset of either kind; for text, options include the context. */
export interface TrainingData {
  batches(options: TextBatchOptions): Batches;
  pass(options: TextPassOptions): AsyncIterable<Batch>;
  fingerprint(): Promise<string>;
}

/** Parts that a config file in TypeScript may build. */
export interface Parts {
  readonly model?: Model;
  readonly data?: TrainingData | ((paths: readonly string[]) => TrainingData);
  readonly loss?: losses.Loss;
  readonly optimizer?: Optimizer | ((run: { readonly steps: number }) => Optimizer);
  readonly metrics?: Readonly<Record<string, Metric>>;
  readonly loggers?: readonly Logger[];
  /** Rules of its own, which recompile the run after the policies that `recompile` names; none if that is 'off'. */
  readonly rules?: readonly Rule[];
}

export interface Experiment {
  readonly config: Config;
  readonly model: Model;
  readonly loss: losses.Loss;
  readonly optimizer: Optimizer;
  readonly metrics: Readonly<Record<string, Metric>>;
  /** The config file's own. */
  readonly loggers: readonly Logger[];
  readonly rules: readonly Rule[];
  /** Bytes a window of text predicts; 0 for other data. */
  readonly context: number;
  /** The data that the run trains on; throws ConfigError if the config names none. */
  data(say: (line: string) => void, paths?: readonly string[]): TrainingData;
}

export function buildExperiment(config: Config, parts: Parts = {}): Experiment {
  const model = parts.model ?? buildModel(config.model);
  const context = config.context ?? config.model?.context ?? contextOf(parts.model);
  return {
    config,
    model,
    context,
    loss: parts.loss ?? lossOf(config),
    optimizer: ownOptimizer(config, parts) ?? buildOptimizer(config),
    metrics: parts.metrics ?? {},
    loggers: parts.loggers ?? [],
    rules: config.recompile === 'off' ? [] : (parts.rules ?? []),
    data(say, given) {
      const paths = given ?? config.data;
      if (given && parts.data && typeof parts.data !== 'function')
        throw new ConfigError(
          '--data has no effect here: the config file brings its own dataset',
          'data: (paths) => dataset takes paths from --data',
        );
      if (typeof parts.data === 'function') return withContext(parts.data(paths), config, context);
      if (parts.data) return withContext(parts.data, config, context);
      if (paths.length === 0)
        throw new ConfigError('there is no data to work on', '--data PATH names text: files, folders or globs');
      return withContext(text(paths, { say }), config, context);
    },
  };
}

function ownOptimizer({ steps }: Config, { optimizer }: Parts): Optimizer | null {
  if (!optimizer) return null;
  const made: unknown = typeof optimizer === 'function' ? optimizer({ steps }) : optimizer;
  if (typeof (made as Optimizer | null | undefined)?.update !== 'function')
    throw new ConfigError(
      `the config file's optimizer has no function update`,
      'optimizer: ({ steps }) => optim.adamW({ lr: 1e-3 })',
    );
  return made as Optimizer;
}

/** Passes the context on to text; rows in memory have none. */
function withContext(data: TrainingData, config: Config, context: number): TrainingData {
  if (data instanceof TextDataset && context === 0)
    throw new ConfigError(
      'the context length, in bytes of text, is not known for this model',
      'set it in the config: context: 64',
    );
  if (!(data instanceof ArrayDataset)) return data;
  if (config.context !== undefined)
    throw new ConfigError('context has no effect here: the data is rows of arrays, not text', 'leave context out');
  return {
    batches: ({ context: _context, ...options }) => data.batches(options),
    pass: ({ context: _context, ...options }) => data.pass(options),
    fingerprint: () => data.fingerprint(),
  };
}

/** The language model of a config. */
function buildModel(config: ModelConfig | null): TransformerLM {
  if (!config)
    throw new UserError(
      'this run has a model of its own, and no config file to build it from',
      '--config FILE names the file',
    );
  const { moe, padding, ...rest } = config;
  // Dense layers compute each token alone, so padding concerns only the loss.
  return new TransformerLM({ ...rest, ...(moe && { moe, ...defined({ padding }) }) });
}

/** The loss of a config. It ignores targets that are padding of the config's model. */
function lossOf({ loss, model }: Config): losses.Loss {
  const ignoreIndex = model?.padding;
  return ignoreIndex === undefined
    ? losses[loss]
    : (logits, targets) => losses.crossEntropy(logits, targets, { ignoreIndex });
}

function contextOf(model: Model | undefined): number {
  return model instanceof TransformerLM ? model.options.context : 0;
}

function buildOptimizer({ optimizer, steps }: Config): Optimizer {
  const { name, schedule, warmup, floor = FLOOR, lr: peak, momentum, nesterov, ...rest } = optimizer;
  const rise = warmup ?? Math.max(1, Math.ceil(steps / 20));
  const lr: Schedule =
    schedule === 'constant'
      ? (step) => peak * Math.min(1, (step + 1) / Math.max(1, warmup ?? 0))
      : warmupCosine({ peak, warmup: rise, total: steps, floor: floor * peak });
  switch (name) {
    case 'adamW':
      return adamW({ ...defined(rest), lr });
    case 'adam':
      return adam({ ...defined(rest), lr });
    case 'lion':
      return lion({ ...defined(rest), lr });
    case 'muon':
      return muon({ ...defined({ ...rest, momentum, nesterov }), lr });
    case 'sgd':
      return sgd({ ...defined({ ...rest, momentum, nesterov }), lr });
  }
}

/** Removes fields that are undefined, so that defaults apply. */
function defined<T extends object>(fields: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(fields).filter(([, v]) => v !== undefined)) as {
    [K in keyof T]: Exclude<T[K], undefined>;
  };
}
