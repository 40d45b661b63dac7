// The flags that replace settings of a config. In: the settings of a config file and the flags; out: settings. A new
// flag is an option of a command (`src/cli`) and a name in one of the tables here; its type is the setting's own.
import type { Parts } from './experiment.ts';
import { ConfigError } from './config-error.ts';
import type { Config } from './schema.ts';

/**
 * Settings of a run. true: a resumed run may have another value, because the setting does not change the results of
 * steps.
 */
const RUN = {
  steps: false,
  batch: false,
  seed: false,
  device: true,
  threads: true,
  evalEvery: true,
  saveEvery: true,
  keep: true,
  patience: true,
  accumulate: false,
  precision: false,
  recompile: false,
  memory: false,
} as const satisfies Partial<Record<keyof Config, boolean>>;

/** Settings of the model, and of its experts (of the model where its layers are dense), by the names of their flags. */
const MODEL = { layers: 'layers', dModel: 'dModel', heads: 'heads', context: 'context' } as const;
const EXPERTS = { experts: 'experts', topK: 'topK', dFf: 'hidden' } as const;

type RunFlag = keyof typeof RUN;
type ModelFlag = keyof typeof MODEL | keyof typeof EXPERTS;

/** Values of flags. experts: 0 makes dense layers. dFf: hidden size of an expert, or of the dense layers. */
export type Overrides = { readonly [K in RunFlag]?: Config[K] } & { readonly [K in ModelFlag]?: number } & {
  readonly data?: readonly string[];
  readonly lr?: number;
  readonly init?: string;
  /** OLD=NEW */
  readonly initRename?: readonly string[];
  readonly initSkip?: readonly string[];
};

const keys = <K extends string>(of: Readonly<Record<K, unknown>>): K[] => Object.keys(of) as K[];

const MODEL_FLAGS: readonly ModelFlag[] = [...keys(MODEL), ...keys(EXPERTS)];

/** All flags that replace settings, in camel case. */
export const OVERRIDES: readonly string[] = [
  'data',
  'lr',
  'init',
  'initRename',
  'initSkip',
  ...keys(RUN),
  ...MODEL_FLAGS,
];

/**
 * Flags that may differ when a run is resumed. Paths of data may differ too: a fingerprint shows whether the data is
 * the same.
 */
export const RESUME_MAY_CHANGE: readonly ('data' | RunFlag)[] = ['data', ...keys(RUN).filter((name) => RUN[name])];

type Data = Record<string, unknown>;

/** The settings, replaced by flags where given. `parts`: what the config file built itself. */
export function withOverrides(data: Readonly<Data>, flags: Overrides, parts: Parts): Data {
  const out: Data = { ...data };
  for (const name of keys(RUN)) if (flags[name] !== undefined) out[name] = flags[name];
  if (flags.data) {
    if (parts.data && typeof parts.data !== 'function') {
      const hint = 'data: (paths) => dataset takes paths from --data';
      throw new ConfigError('--data: the config file brings its own dataset', hint);
    }
    out['data'] = flags.data;
  }
  if (flags.lr !== undefined) {
    if (parts.optimizer) throw new ConfigError('--lr: the config file brings its own optimizer', 'set the rate there');
    out['optimizer'] = { ...(data['optimizer'] as Data | undefined), lr: flags.lr };
  }
  if (flags.init !== undefined || flags.initRename || flags.initSkip) out['init'] = initWith(data['init'], flags);
  const given = MODEL_FLAGS.filter((name) => flags[name] !== undefined);
  if (given.length === 0) return out;
  if (parts.model) {
    throw new ConfigError(`--${dashed(given[0])}: the config file brings its own model`, 'change the model there');
  }
  out['model'] = modelWith((data['model'] ?? {}) as Data, flags);
  return out;
}

function initWith(init: unknown, { init: checkpoint, initRename, initSkip }: Overrides): Data {
  if (init === undefined && checkpoint === undefined)
    throw new ConfigError(`--init-${initSkip ? 'skip' : 'rename'} needs --init`, '--init CHECKPOINT');
  const pairs = initRename?.map((rule) => {
    const at = rule.indexOf('=');
    if (at > 0 && at < rule.length - 1) return [rule.slice(0, at), rule.slice(at + 1)] as const;
    throw new ConfigError(`--init-rename: expected OLD=NEW, got ${rule}`, "--init-rename 'old.*=new.*'");
  });
  return {
    ...(init as Data | undefined),
    ...(checkpoint !== undefined && { checkpoint }),
    ...(pairs && { rename: Object.fromEntries(pairs) }),
    ...(initSkip && { skip: initSkip }),
  };
}

function modelWith(model: Readonly<Data>, flags: Overrides): Data {
  const out: Data = { ...model };
  for (const name of keys(MODEL)) if (flags[name] !== undefined) out[MODEL[name]] = flags[name];
  const { experts, topK, dFf } = flags;
  if (experts === 0 || (experts === undefined && model['moe'] === null)) {
    if (topK !== undefined) {
      throw new ConfigError('--top-k: dense layers have no experts', 'leave it out, or set --experts to 2 or more');
    }
    return { ...out, moe: null, ...(dFf !== undefined && { hidden: dFf }) };
  }
  const moe: Data = { ...(model['moe'] as Data | undefined) };
  for (const name of keys(EXPERTS)) if (flags[name] !== undefined) moe[EXPERTS[name]] = flags[name];
  return { ...out, moe };
}

const dashed = (name: string): string => name.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`);
