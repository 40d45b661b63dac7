// The settings of a run, from where they may come: a config file, flags, a run that is resumed, a checkpoint.
// In: those; out: a checked Config, the parts that a file built, and the file's name for later.
import { resolve } from 'node:path';
import { UserError } from '../base/errors.ts';
import { isJson, loadConfigFile, refuseConfigAsText, type ConfigSource } from './config-file.ts';
import { buildExperiment, type Experiment, type Parts } from './experiment.ts';
import type { Json } from '../io/json.ts';
import { checkPolicies } from '../recompile/policies/table.ts';
import { ConfigError, parseConfig, type Config, type ConfigData } from './schema.ts';

/** What a run folder and its checkpoints keep: enough to build the model again. */
export interface RunSettings {
  readonly config: Config;
  readonly source: ConfigSource | null;
}

/** Settings that take the place of a file's: the command line's flags. */
export interface Overrides {
  readonly data?: readonly string[];
  readonly steps?: number;
  readonly batch?: number;
  readonly seed?: number;
  readonly device?: Config['device'];
  readonly threads?: number;
  readonly evalEvery?: number;
  readonly saveEvery?: number;
  readonly accumulate?: number;
  readonly recompile?: string;
  readonly memory?: number;
  readonly lr?: number;
  readonly layers?: number;
  readonly dModel?: number;
  readonly heads?: number;
  readonly context?: number;
  /** 0: dense layers. */
  readonly experts?: number;
  readonly topK?: number;
  /** Hidden size of an expert, or of the dense layers. */
  readonly dFf?: number;
}

export interface Configured {
  readonly settings: RunSettings;
  readonly experiment: Experiment;
}

const MODEL_FLAGS = ['layers', 'dModel', 'heads', 'context', 'experts', 'topK', 'dFf'] as const;
const RUN_FLAGS = [
  'steps',
  'batch',
  'seed',
  'device',
  'threads',
  'evalEvery',
  'saveEvery',
  'accumulate',
  'recompile',
  'memory',
] as const;
/**
 * What may differ between a run and its continuation: nothing of it changes a number of the steps that are left.
 * Whether data elsewhere is the same data, its fingerprint tells.
 */
const FREE_FLAGS = ['data', 'device', 'threads', 'evalEvery', 'saveEvery'] as const;

type Data = Record<string, unknown>;

/** A config file (or `defaults`, by themselves the default model) with flags over it. */
export async function configure(
  file: string | undefined,
  overrides: Overrides,
  defaults: ConfigData = {},
): Promise<Configured> {
  if (file === undefined) await refuseConfigAsText(overrides.data ?? []);
  const loaded = file === undefined ? undefined : await loadConfigFile(file);
  const data = withOverrides(loaded?.data ?? { ...defaults }, overrides, loaded?.parts ?? {});
  const config = parseConfig(data, file);
  const settings = {
    config: { ...config, data: config.data.map((path) => resolve(path)) },
    source: loaded?.source ?? null,
  };
  try {
    const experiment = buildExperiment(settings.config, loaded?.parts);
    checkPolicies(experiment.model, config.recompile);
    return { settings, experiment };
  } catch (error) {
    // What a layer or an optimiser refuses was set there.
    if (error instanceof ConfigError || !(error instanceof UserError)) throw error;
    throw new ConfigError(`${file === undefined ? '' : `${file}: `}${error.message.split('\n')[0]}`, error.hint, error);
  }
}

function withOverrides(data: Readonly<Data>, flags: Overrides, parts: Parts): Data {
  const out: Data = { ...data };
  for (const name of RUN_FLAGS) if (flags[name] !== undefined) out[name] = flags[name];
  if (flags.data) {
    if (parts.data && typeof parts.data !== 'function')
      throw new ConfigError(
        '--data: the config file brings its ' + 'own dataset',
        'data: (paths) => dataset takes paths from --data',
      );
    out['data'] = flags.data;
  }
  if (flags.lr !== undefined) {
    if (parts.optimizer) throw new ConfigError('--lr: the config file brings its own optimizer', 'set the rate there');
    out['optimizer'] = { ...(data['optimizer'] as Data | undefined), lr: flags.lr };
  }
  const given = MODEL_FLAGS.filter((name) => flags[name] !== undefined);
  if (given.length === 0) return out;
  if (parts.model)
    throw new ConfigError(`--${dashed(given[0])}: the config file brings its own model`, 'change the ' + 'model there');
  out['model'] = modelWith((data['model'] ?? {}) as Data, flags);
  return out;
}

function modelWith(model: Readonly<Data>, { experts, topK, dFf, ...flags }: Overrides): Data {
  const out: Data = { ...model };
  for (const name of ['layers', 'dModel', 'heads', 'context'] as const)
    if (flags[name] !== undefined) out[name] = flags[name];
  const dense = experts === 0 || (experts === undefined && model['moe'] === null);
  if (dense) {
    if (topK !== undefined)
      throw new ConfigError(
        '--top-k: dense layers have no ' + 'experts',
        'leave it out, or set --experts to 2 or more',
      );
    return { ...out, moe: null, ...(dFf !== undefined && { hidden: dFf }) };
  }
  const moe: Data = { ...(model['moe'] as Data | undefined) };
  if (experts !== undefined) moe['experts'] = experts;
  if (topK !== undefined) moe['topK'] = topK;
  if (dFf !== undefined) moe['hidden'] = dFf;
  return { ...out, moe };
}

const dashed = (name: string): string => name.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`);

/** Settings that were stored: checked like any other, because a file may have been edited. */
export function parseSettings(stored: Json, where: string): RunSettings {
  const { config, source } = stored as { config?: unknown; source?: ConfigSource | null };
  return { config: parseConfig(config ?? {}, where, { stored: true }), source: source ?? null };
}

/**
 * The experiment of stored settings, which come from `where`; `file` stands in for the config file that they name. Says
 * it where the file has changed.
 */
export async function rebuild(
  settings: RunSettings,
  where: string,
  say: (line: string) => void,
  file?: string,
): Promise<Experiment> {
  const { config, source } = settings;
  if (file === undefined) {
    try {
      return await rebuildFrom(settings, source?.path, say);
    } catch (error) {
      if (error instanceof UserError) error.message = `${where}: ${error.message}`;
      throw error;
    }
  }
  if (source === null) {
    throw new ConfigError(`${file} has no effect here: the run was not started with a config file`, 'leave it out');
  }
  if (isJson(file) !== isJson(source.path)) {
    const what = `${file} cannot stand in for ${source.path}, with which the run was started`;
    throw new ConfigError(what, 'name that file, or a copy of it');
  }
  if (!isJson(file)) return rebuildFrom(settings, file, say);
  if ((await loadConfigFile(file)).source.sha256 !== source.sha256) {
    say(`${file} is not what the run was started with: the run keeps its own settings`);
  }
  return buildExperiment(config);
}

async function rebuildFrom(
  { config, source }: RunSettings,
  path: string | undefined,
  say: (line: string) => void,
): Promise<Experiment> {
  if (path === undefined || isJson(path)) return buildExperiment(config);
  const loaded = await loadConfigFile(path);
  if (source && loaded.source.sha256 !== source.sha256) say(`${path} has changed since the run was started`);
  return buildExperiment(config, loaded.parts);
}

/** The first place where two values differ: model.moe.experts 8, not 4. */
function difference(path: string, was: unknown, is: unknown): string {
  const record = (value: unknown): value is Data =>
    typeof value === 'object' && value !== null && !Array.isArray(value);
  const key =
    record(was) && record(is)
      ? Object.keys({ ...was, ...is }).find((k) => JSON.stringify(was[k]) !== JSON.stringify(is[k]))
      : undefined;
  if (key !== undefined) return difference(`${path}.${key}`, (was as Data)[key], (is as Data)[key]);
  const text = (value: unknown): string => JSON.stringify(value) ?? 'none';
  return `${path} ${text(was)}, not ${text(is)}`;
}

/**
 * Stored settings for a resumed run. Flags that would change its course are refused; more steps are allowed and said.
 */
export function resumeSettings(stored: RunSettings, flags: Overrides, say: (line: string) => void): RunSettings {
  const { config } = stored,
    wanted = withOverrides(config, flags, {});
  const asked = parseConfig({ ...wanted, data: (flags.data ?? config.data).map((path) => resolve(path)) }, undefined, {
    stored: true,
  });
  const free: readonly string[] = [...FREE_FLAGS, 'steps'];
  for (const key of Object.keys(asked) as (keyof Config)[]) {
    if (free.includes(key) || JSON.stringify(asked[key]) === JSON.stringify(config[key])) continue;
    throw new ConfigError(
      `the run was started with ${difference(key, config[key], asked[key])}`,
      'a resumed run keeps its settings: leave the flag out, or start a new run',
    );
  }
  if (asked.steps !== config.steps)
    say(
      `the run was started for ${config.steps} steps and goes on to ` +
        `${asked.steps}; its learning rates follow the new number`,
    );
  return { ...stored, config: asked };
}
