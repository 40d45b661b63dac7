// The configuration of a run as plain data: which keys a config may have, their types and their defaults. In: unknown
// data; out: a Config with every value filled in, or a ConfigError that names the key.
import { z } from 'zod';
import { closest } from '../base/options.ts';
import { ACTIVATIONS } from '../nn/moe/experts.ts';
import { LOSSES } from '../nn/moe/losses.ts';
import { ROUTINGS } from '../nn/moe/memory.ts';
import { OVERFLOWS, PRIORITIES, unusedBeyond } from '../nn/moe/routing.ts';
import { DISPATCHES } from '../nn/moe/strategies.ts';
import { policies, POLICY_NAMES } from '../recompile/policies/select.ts';
import { DEVICE_NAMES, isDevice, PRECISIONS, type DeviceName } from '../session/platform.ts';
import { ROLES } from '../trace/parameter.ts';
import { ConfigError } from './config-error.ts';

const whole = z.int().min(1),
  share = z.number().min(0).max(1),
  positive = z.number().positive();

/** Options of nn.MoE that are plain data; tests/train/schema.test.ts compares the two lists. */
export const moeObject = z.strictObject({
  experts: whole.default(8),
  active: whole.optional(),
  /** Default 2, or 1 where there is one expert. */
  topK: whole.optional(),
  hidden: whole.default(256),
  capacity: z.union([z.literal('dropless'), z.number().min(0), z.array(z.number().min(0))]).default('dropless'),
  overflow: z.enum(OVERFLOWS).optional(),
  priority: z.enum(PRIORITIES).optional(),
  dispatch: z.enum(DISPATCHES).optional(),
  expertRows: z.int().min(0).optional(),
  routing: z.enum(ROUTINGS).optional(),
  remember: whole.optional(),
  audit: whole.optional(),
  recompute: z.boolean().optional(),
  chunks: whole.optional(),
  frozen: z.union([z.boolean(), z.array(z.boolean())]).optional(),
  gateFrozen: z.boolean().optional(),
  shared: whole.optional(),
  activation: z.enum(ACTIVATIONS).optional(),
  bias: z.boolean().optional(),
  normalise: z.boolean().optional(),
  balance: z.number().min(0).optional(),
  zLoss: z.number().min(0).optional(),
  losses: z.partialRecord(z.enum(LOSSES), z.number().min(0)).optional(),
  outStd: z.number().min(0).optional(),
});
const moeSchema = moeObject.transform((moe) => ({ ...moe, topK: moe.topK ?? Math.min(2, moe.active ?? moe.experts) }));

/** nn.TransformerLM's options. `moe: null` makes dense layers of width `hidden`. */
const modelSchema = z.strictObject({
  vocab: whole.default(256),
  layers: whole.default(4),
  dModel: whole.default(128),
  heads: whole.default(4),
  kvHeads: whole.optional(),
  context: whole.default(64),
  moe: moeSchema.nullable().prefault({}),
  hidden: whole.optional(),
  dropout: z.number().min(0).lt(1).optional(),
  recompute: z.boolean().optional(),
  tied: z.boolean().optional(),
  /** The id of tokens that are padding: mixtures of experts leave them out, and the loss ignores targets of this id. */
  padding: z.int().min(0).optional(),
});

const role = z.enum(ROLES);

/** Settings for the parameters of some modules or roles: rules of an optimiser's `groups`. */
const groupSchema = z.strictObject({
  match: z.string().min(1).optional(),
  role: z.union([role, z.array(role)]).optional(),
  lr: z.number().min(0).optional(),
  decay: z.union([z.number().min(0), z.boolean()]).optional(),
  frozen: z.boolean().optional(),
});

const optimizerSchema = z.strictObject({
  name: z.enum(['adamW', 'adam', 'sgd', 'lion', 'muon']).default('adamW'),
  lr: positive.default(3e-3),
  /** Steps in which the learning rate rises linearly; default a twentieth of the run. */
  warmup: z.int().min(0).optional(),
  schedule: z.enum(['cosine', 'constant']).default('cosine'),
  /** Last learning rate of the cosine as a share of `lr`; default 0.05. */
  floor: share.optional(),
  betas: z.tuple([share, share]).optional(),
  eps: positive.optional(),
  weightDecay: z.number().min(0).optional(),
  momentum: share.optional(),
  nesterov: z.boolean().optional(),
  clip: positive.optional(),
  groups: z.array(groupSchema).optional(),
});

/** Options of initFrom (src/session/init.ts). */
const initSchema = z.strictObject({
  checkpoint: z.string().min(1),
  rename: z.record(z.string().min(1), z.string().min(1)).optional(),
  skip: z.array(z.string().min(1)).optional(),
});

function isPolicies(names: string): boolean {
  try {
    return policies(names).length >= 0;
  } catch {
    return false;
  }
}

export const KEEP = ['last', 'best,last'] as const;

const configSchema = z.strictObject({
  /** null: the config file builds its own model. */
  model: modelSchema.nullable().prefault({}),
  /** Paths of text; if the config file builds a dataset, the argument of its function. */
  data: z.union([z.string().transform((path) => [path]), z.array(z.string())]).default([]),
  loss: z
    .enum([
      'crossEntropy',
      'meanSquaredError',
      'meanAbsoluteError',
      'huber',
      'binaryCrossEntropyWithLogits',
      'nll',
      'klDivergence',
      'hinge',
      'cosineSimilarity',
    ])
    .default('crossEntropy'),
  optimizer: optimizerSchema.prefault({}),
  /** Fine-tuning: the checkpoint whose parameters are the initial ones, and which of them are renamed or left out. */
  init: initSchema.optional(),
  /** Context length in bytes, if the config file builds the model. */
  context: whole.optional(),
  batch: whole.default(12),
  steps: whole.default(2000),
  seed: z.int().min(0).max(0xffffffff).default(0),
  /** Steps between validations; 0: only at the end. Default a quarter of the run, at least 100. */
  evalEvery: z.int().min(0).optional(),
  /** Samples of a validation batch; default chosen by the size of the data. */
  evalBatch: whole.optional(),
  /** Steps between checkpoints; 0: only at the end. Default about every ten seconds. */
  saveEvery: z.int().min(0).optional(),
  /** Which checkpoints stay: the newest, or also that of the best validation, as best.safetensors. */
  keep: z.enum(KEEP).default('last'),
  /** After so many validations without a lower loss, the run ends; default: never. */
  patience: whole.optional(),
  accumulate: whole.default(1),
  /** What is stored in 16 bits: nothing, activations (bfloat16), or weights and moments too (bfloat16-weights). */
  precision: z.enum(PRECISIONS).default('float32'),
  /** Policies that recompile the run: 'auto' (only changes that keep results identical), 'off', or names and commas. */
  recompile: z
    .string()
    .refine(isPolicies, { error: `expected auto, off, or some of ${POLICY_NAMES.join(',')}` })
    .default('auto'),
  device: z.custom<DeviceName>(isDevice, { error: `expected one of ${DEVICE_NAMES}` }).default('auto'),
  threads: whole.max(256).optional(),
  /** Memory limit for weights, optimizer and activations in MiB; default: what is free. */
  memory: whole.optional(),
});

/** The settings that a config file may have, all optional. */
export type ConfigData = z.input<typeof configSchema>;
/** A run's settings, every default filled in. Plain JSON: it is stored with the run and in its checkpoints. */
export type Config = z.output<typeof configSchema>;
export type ModelConfig = NonNullable<Config['model']>;

/**
 * Checks data and fills in defaults. `where`: the file's name, undefined if there are only flags. stored: the data are
 * the stored settings of a run.
 */
export function parseConfig(
  data: unknown,
  where?: string,
  { stored = false }: { readonly stored?: boolean } = {},
): Config {
  const result = configSchema.safeParse(data),
    place = where === undefined ? '' : `${where}: `;
  if (result.success) {
    // Stored settings of a run from an earlier version may contain some without effect.
    if (!stored) checkUnused(result.data, place);
    return check(result.data, place);
  }
  const issue = result.error.issues[0],
    at = issue.path.join('.');
  if (issue.code === 'unrecognized_keys') {
    const known = knownKeys(issue.path);
    const near = closest(issue.keys[0], known);
    throw new ConfigError(
      `${place}unknown key ${issue.keys.map((k) => [...issue.path, k].join('.')).join(', ')}`,
      `${near === null ? '' : `did you mean "${near}"? `}${at || 'a config'} may have ${known.join(', ')}`,
    );
  }
  throw new ConfigError(`${place}${at || 'the config'}: ${issue.message}`, HINT);
}

const MOST_TOKENS = 2 ** 31 - 1; // in a batch, because int32 numbers count the rows
const HINT = 'dynamoe train --help tells what may be set';

/** Throws ConfigError for a setting that has no effect together with the others. */
function checkUnused({ model, device, threads }: Config, place: string): void {
  const refuse = (key: string, reason: string): never => {
    throw new ConfigError(`${place}${key} has no effect here: ${reason}`, `leave ${key} out`);
  };
  if (threads !== undefined && device === 'reference') refuse('threads', 'the reference device has one thread');
  if (!model?.moe) return;
  if (model.hidden !== undefined)
    refuse('model.hidden', 'it is the width of dense layers (moe: null), and model.moe.hidden is that of an expert');
  for (const [key, reason] of Object.entries(unusedBeyond(model.moe))) {
    if (reason !== null && model.moe[key as 'overflow' | 'priority'] !== undefined) refuse(`model.moe.${key}`, reason);
  }
}

/** All keys of a config. */
export const CONFIG_KEYS: readonly string[] = Object.keys(configSchema.shape);

function check(config: Config, place: string): Config {
  const { model, batch, accumulate } = config;
  checkOptimizer(config, place);
  if (batch % accumulate !== 0)
    throw new ConfigError(
      `${place}batch ${batch} cannot be split into ${accumulate} equal parts (accumulate)`,
      'choose a batch that is a multiple of it',
    );
  const tokens = batch * (config.context ?? model?.context ?? 1);
  if (tokens > MOST_TOKENS)
    throw new ConfigError(
      `${place}a batch of ${batch} has ${tokens} tokens, more than ${MOST_TOKENS}`,
      'choose a smaller batch or context',
    );
  if (!model) return config;
  if (model.heads % (model.kvHeads ?? model.heads) !== 0) {
    throw new ConfigError(
      `${place}${model.heads} heads cannot share ${model.kvHeads ?? model.heads} heads of keys evenly`,
      'kvHeads must divide heads',
    );
  }
  if (model.dModel % model.heads !== 0 || (model.dModel / model.heads) % 2 !== 0) {
    throw new ConfigError(
      `${place}width ${model.dModel} (dModel) cannot be split into ${model.heads} heads of even width`,
      'choose a width that is a multiple of twice the heads',
    );
  }
  const { experts = Infinity, active = experts, topK = 0 } = model.moe ?? {};
  if (active > experts)
    throw new ConfigError(
      `${place}active ${active} is more than the ${experts} experts`,
      'active says how many of them there are from the start',
    );
  if (topK > active)
    throw new ConfigError(
      `${place}topK ${topK} is more than the ${active} experts`,
      `choose a top-k from 1 to ${active}`,
    );
  if (model.moe && Array.isArray(model.moe.capacity) && model.moe.capacity.length !== model.moe.experts) {
    throw new ConfigError(
      `${place}capacity lists ${model.moe.capacity.length} factors for ${model.moe.experts} experts`,
      'one factor for all, or one for each',
    );
  }
  if (model.padding !== undefined && model.padding >= model.vocab)
    throw new ConfigError(
      `${place}padding ${model.padding} is no token of the model, which are 0..${model.vocab - 1}`,
      'a token of its own for padding makes vocab larger by 1',
    );
  if (model.padding !== undefined && config.loss !== 'crossEntropy')
    throw new ConfigError(
      `${place}the loss ${config.loss} cannot ignore targets that are padding (model.padding)`,
      'crossEntropy can; leave padding out, or let a config file in TypeScript bring model and loss',
    );
  if (model.vocab < 256)
    throw new ConfigError(`${place}vocab ${model.vocab} is too small: text is bytes, 256 symbols`, 'leave it out');
  return config;
}

/** The last rate of a cosine, as a share of the highest. */
export const FLOOR = 0.05;

/** Settings that not every optimiser has. */
const ONLY = {
  betas: ['adamW', 'adam', 'lion'],
  eps: ['adamW', 'adam'],
  weightDecay: ['adamW', 'sgd', 'lion', 'muon'],
  momentum: ['sgd', 'muon'],
  nesterov: ['sgd', 'muon'],
} as const;

function checkOptimizer({ optimizer, steps }: Config, place: string): void {
  const { name, schedule, floor, warmup = 0, nesterov = false } = optimizer,
    { momentum = name === 'muon' ? 0.95 : 0 } = optimizer;
  const refuse = (what: string, hint: string): never => {
    throw new ConfigError(`${place}optimizer.${what}`, hint);
  };
  for (const [key, names] of Object.entries(ONLY) as [keyof typeof ONLY, readonly string[]][]) {
    if (optimizer[key] === undefined || names.includes(name)) continue;
    refuse(`${key}: ${name} has no such setting`, `${names.join(' and ')} ${names.length > 1 ? 'have' : 'has'}`);
  }
  if (nesterov && momentum === 0) refuse('nesterov has no effect without momentum', '"momentum": 0.9');
  // Runs of earlier versions stored the default.
  if (schedule === 'constant' && floor !== undefined && floor !== FLOOR) {
    refuse('floor has no effect with a constant schedule', '"schedule": "cosine"');
  }
  if (warmup > steps) {
    refuse(
      `warmup takes ${warmup} steps, more than the ${steps} in all`,
      'leave it out: the default is a twentieth of the run',
    );
  }
}

const SHAPES: Record<string, { readonly shape: object }> = {
  '': configSchema,
  model: modelSchema,
  'model.moe': moeObject,
  'model.moe.losses': { shape: Object.fromEntries(LOSSES.map((name) => [name, null])) },
  optimizer: optimizerSchema,
  'optimizer.groups': groupSchema,
  init: initSchema,
};

const knownKeys = (path: readonly PropertyKey[]): string[] =>
  Object.keys(SHAPES[path.filter((key) => typeof key !== 'number').join('.')]?.shape ?? {});
