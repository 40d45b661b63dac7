// The settings of a run, which come from a config file, from flags, from a run that is resumed or from a checkpoint.
// Out: a checked Config, the parts that a file built, and the file's name.
import { resolve } from 'node:path';
import { z } from 'zod';
import { UserError } from '../base/errors.ts';
import { isJson, loadConfigFile, refuseConfigAsText, type ConfigSource } from './config-file.ts';
import { buildExperiment, type Experiment } from './experiment.ts';
import type { Json } from '../io/json.ts';
import { checkPolicies } from '../recompile/policies/select.ts';
import { RESUME_MAY_CHANGE, withOverrides, type Overrides } from './overrides.ts';
import { ConfigError } from './config-error.ts';
import { parseConfig, type Config, type ConfigData } from './schema.ts';

/** What a run folder and its checkpoints keep: enough to build the model again. */
export interface RunSettings {
  readonly config: Config;
  readonly source: ConfigSource | null;
}

export interface Configured {
  readonly settings: RunSettings;
  readonly experiment: Experiment;
}

/**
 * The experiment of a config file whose settings the flags replace. Without a file, `defaults` are the settings; if
 * they are empty too, the default model is used.
 */
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
    config: {
      ...config,
      data: config.data.map((path) => resolve(path)),
      ...(config.init && { init: { ...config.init, checkpoint: resolve(config.init.checkpoint) } }),
    },
    source: loaded?.source ?? null,
  };
  try {
    const experiment = buildExperiment(settings.config, loaded?.parts);
    checkPolicies(experiment.model, config.recompile);
    return { settings, experiment };
  } catch (error) {
    // If a layer or an optimiser refuses a value, the value comes from the config: report a ConfigError.
    if (error instanceof ConfigError || !(error instanceof UserError)) throw error;
    throw new ConfigError(`${file === undefined ? '' : `${file}: `}${error.message.split('\n')[0]}`, error.hint, error);
  }
}

const storedSchema = z.object({
  config: z.unknown().optional(),
  source: z.object({ path: z.string().min(1), sha256: z.string() }).nullish(),
});

/**
 * Stored settings, checked like any others, because the file may have been edited. null, which `session.save` of a
 * program writes: the file has none.
 */
export function parseSettings(stored: Json, where: string): RunSettings {
  if (stored === null)
    throw new ConfigError(
      `${where} holds no settings of a run, so its model cannot be built again`,
      'files of `dynamoe train` hold them; a program that builds the model can load the file: session.load(path)',
    );
  const { data, error } = storedSchema.safeParse(stored);
  if (error) {
    const [{ path, message }] = error.issues;
    throw new ConfigError(
      `${where}: ${path.join('.') || 'the settings'}: ${message}`,
      'the file is damaged, or was edited: dynamoe train writes it',
    );
  }
  return { config: parseConfig(data.config ?? {}, where, { stored: true }), source: data.source ?? null };
}

/**
 * The experiment of stored settings, which were read from `where`. `file` replaces the config file that they name.
 * `say` gets a line if the file has changed.
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
    const what = `${file} cannot replace ${source.path}, with which the run was started`;
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

type Data = Record<string, unknown>;

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
 * The settings of a resumed run: the stored ones, replaced by flags. Flags that would change its results are refused;
 * more steps are allowed. `say` gets a line for every setting that is replaced.
 */
export function resumeSettings(stored: RunSettings, flags: Overrides, say: (line: string) => void): RunSettings {
  const { config } = stored,
    wanted = withOverrides(config, flags, {});
  const asked = parseConfig({ ...wanted, data: (flags.data ?? config.data).map((path) => resolve(path)) }, undefined, {
    stored: true,
  });
  const free: readonly string[] = RESUME_MAY_CHANGE,
    text = (value: unknown): string => JSON.stringify(value) ?? 'the default';
  for (const key of Object.keys(asked) as (keyof Config)[]) {
    if (key === 'steps' || JSON.stringify(asked[key]) === JSON.stringify(config[key])) continue;
    if (free.includes(key)) {
      say(`${key} is ${text(asked[key])} from now on; before, it was ${text(config[key])}`);
      continue;
    }
    throw new ConfigError(
      `the run was started with ${difference(key, config[key], asked[key])}`,
      'a resumed run keeps its settings: leave the flag out, or start a new run',
    );
  }
  if (asked.steps !== config.steps)
    say(
      `the run was set to ${config.steps} steps and goes on to ` +
        `${asked.steps}; the learning-rate schedule uses the new number`,
    );
  return { ...stored, config: asked };
}
