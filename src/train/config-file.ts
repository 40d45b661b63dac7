// Configuration files: JSON, or TypeScript/JavaScript whose default export is an object of settings. Such a file may
// also build a model, a loss, an optimiser, a dataset, metrics, loggers or rules. In: a path; out: the settings, not
// checked yet, and the parts that the file built.
import { shellWord } from '../base/words.ts';
import { createHash } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import { extname, resolve, sep } from 'node:path';
import { pathToFileURL } from 'node:url';
import { UserError } from '../base/errors.ts';
import { fault, shownPath } from '../io/fault.ts';
import { parseJson } from '../io/json-file.ts';
import type { Parts } from './experiment.ts';
import { ConfigError } from './config-error.ts';
import { CONFIG_KEYS, type ConfigData } from './schema.ts';

/** What the default export of a config file in TypeScript may be. */
export type TrainConfig = Omit<ConfigData, keyof Parts> & {
  readonly [K in keyof Parts]: Parts[K] | (K extends keyof ConfigData ? ConfigData[K] : never);
};

/** The config file of a run, and the hash of its content when the run began. */
export interface ConfigSource {
  readonly path: string;
  readonly sha256: string;
}

export interface ConfigFile {
  readonly source: ConfigSource;
  readonly data: Readonly<Record<string, unknown>>;
  readonly parts: Parts;
}

const CODE = ['.ts', '.mts', '.js', '.mjs', '.cjs'];

export const isJson = (path: string): boolean => extname(path).toLowerCase() === '.json';

const MOST = 1 << 20; // bytes of a file that may be a config

/** Throws ConfigError if a path after `--data` is a config: `--data` takes all paths that follow it as text. */
export async function refuseConfigAsText(paths: readonly string[]): Promise<void> {
  const code = paths.filter((path) => CODE.includes(extname(path).toLowerCase()));
  for (const path of [...paths.filter(isJson), ...(code.length === 1 ? code : [])]) {
    const text = await stat(path).then(
      (s) => (s.isFile() && s.size <= MOST ? readFile(path, 'utf8') : null),
      () => null,
    );
    if (text !== null && (isJson(path) ? isConfigData(text) : isConfigCode(text))) {
      throw new ConfigError(
        `${path} is a config, but after --data it is taken as text to train on`,
        `write a config before --data: ${shellWord(path)} --data PATH; to train on its text, name its folder`,
      );
    }
  }
}

function isConfigData(text: string): boolean {
  try {
    const keys = Object.keys(JSON.parse(text.replace(/^\ufeff/, '')) as object);
    return keys.length > 0 && keys.every((key) => CONFIG_KEYS.includes(key));
  } catch {
    return false;
  }
}

/** Whether a text has a default export and at least two keys of a config. */
const isConfigCode = (text: string): boolean =>
  /\bexport\s+default\b|\bmodule\.exports\b/.test(text) &&
  CONFIG_KEYS.filter((key) =>
    new RegExp(`^\\s*['"]?${key}['"]?\\s*[:,(]|[{,]\\s*['"]?${key}['"]?\\s*[:,(]`, 'm').test(text),
  ).length >= 2;

export async function loadConfigFile(file: string): Promise<ConfigFile> {
  const path = resolve(file),
    kind = extname(path).toLowerCase();
  const bytes = await readFile(path).catch((error: unknown) => {
    const refused = fault('read the config', file, error);
    throw new ConfigError(
      refused instanceof UserError ? refused.message.split('\n')[0] : String(error),
      'text to train on is named by --data PATH',
      error,
    );
  });
  const source = { path, sha256: createHash('sha256').update(bytes).digest('hex') };
  if (kind === '.json') return { source, data: asObject(readJson(bytes, file), file), parts: {} };
  if (!CODE.includes(kind))
    throw new ConfigError(
      `${file} is no config: it ends neither in .json nor in .ts, .js, .mts, .mjs or .cjs`,
      'text to train on is named by --data PATH',
    );
  return { source, ...split(asObject(await importDefault(path, file), file), file) };
}

function readJson(bytes: Uint8Array, file: string): unknown {
  try {
    return parseJson(bytes, file);
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    throw new ConfigError(
      error.message.split('\n')[0],
      error.cause instanceof SyntaxError ? 'a .ts config may have comments and no quotes' : error.hint,
      error,
    );
  }
}

async function importDefault(path: string, file: string): Promise<unknown> {
  let module: { readonly default?: unknown };
  if (sep === '/' && path.includes('\\'))
    throw new ConfigError(
      `cannot import ${shownPath(path)}: Node imports no file with a backslash in its path`,
      'rename it, or write the config as .json',
    );
  try {
    module = (await import(pathToFileURL(path).href)) as { readonly default?: unknown };
  } catch (error) {
    const [message] = (error instanceof Error ? error.message : String(error)).trim().split('\n');
    throw new ConfigError(`${shownPath(file)}: ${message}`, '--debug shows where', error);
  }
  if (module.default === undefined)
    throw new ConfigError(`${file} has no default export`, 'export default { model, data, steps, ... }');
  return module.default;
}

function asObject(value: unknown, file: string): Record<string, unknown> {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  throw new ConfigError(`${file} holds no object`, '{ "steps": 1000, "data": ["PATH"], ... }');
}

const has = (value: unknown, method: string): boolean =>
  typeof value === 'object' && value !== null && typeof (value as Record<string, unknown>)[method] === 'function';

/** For each key: tells whether its value is a part that the file built, not plain data. */
const BUILT: Readonly<Record<keyof Parts, (value: unknown) => boolean>> = {
  model: (v) => has(v, 'forward'),
  data: (v) => typeof v === 'function' || has(v, 'batches'),
  loss: (v) => typeof v === 'function',
  optimizer: (v) => typeof v === 'function' || has(v, 'update'),
  metrics: () => true,
  loggers: (v) => Array.isArray(v),
  rules: (v) => Array.isArray(v),
};

/** Checks the types of `metrics`, `loggers` and `rules`, which can only be built by a file. */
function checkParts(value: Record<string, unknown>, file: string): void {
  const { metrics } = value;
  if (metrics !== undefined && (typeof metrics !== 'object' || metrics === null || Array.isArray(metrics)))
    throw new ConfigError(
      `${file}: metrics must be an object of metrics by name`,
      'metrics: { accuracy: metrics.accuracy }',
    );
  for (const [name, metric] of Object.entries(metrics ?? {})) {
    if (typeof metric !== 'function' && !has(metric, 'tally'))
      throw new ConfigError(
        `${file}: metrics.${name} is no metric`,
        "a function of output and batch, or one of dynamoe's `metrics`",
      );
  }
  checkList('loggers', value, file, ['log(event)'], 'loggers: [tensorBoard()]');
  checkList('rules', value, file, ['trigger(run)', 'alter(model, run)'], 'rules: [{ name, trigger, alter }]');
}

/** Checks that value[key], if it is there, is a list of objects with these functions. example: a right one. */
function checkList(
  key: 'loggers' | 'rules',
  { [key]: list }: Record<string, unknown>,
  file: string,
  functions: readonly string[],
  example: string,
): void {
  if (list === undefined) return;
  if (!Array.isArray(list)) throw new ConfigError(`${file}: ${key} must be a list`, example);
  for (const [i, item] of list.entries()) {
    const lacking = functions.find((text) => !has(item, text.slice(0, text.indexOf('('))));
    if (lacking !== undefined)
      throw new ConfigError(
        `${file}: ${key}.${i} has no function ${lacking}`,
        `an object with ${functions.join(' and ')}`,
      );
  }
}

function split(value: Record<string, unknown>, file: string): { data: Record<string, unknown>; parts: Parts } {
  checkParts(value, file);
  const data = { ...value },
    parts: Record<string, unknown> = {};
  for (const [key, built] of Object.entries(BUILT)) {
    if (value[key] === undefined || !built(value[key])) continue;
    parts[key] = value[key];
    delete data[key];
  }
  if (parts['model']) data['model'] = null;
  return { data, parts };
}
