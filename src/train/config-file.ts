// Configuration files: JSON with data, or TypeScript/JavaScript whose default export is data, or data with a model, a loss, an
// optimiser, a dataset, metrics or loggers built by the file. In: a path; out: what the file says, not yet checked, and its built parts.
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { extname, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { UserError } from '../base/errors.ts';
import { fault } from '../io/fault.ts';
import { parseJson } from '../io/json-file.ts';
import type { Parts } from './experiment.ts';
import { ConfigError, type ConfigData } from './schema.ts';

/** What the default export of a config file in TypeScript may be. */
export type TrainConfig = Omit<ConfigData, keyof Parts> & { readonly [K in keyof Parts]: Parts[K] | (K extends keyof ConfigData ? ConfigData[K] : never) };

/** Which file a run was configured by, and what it held then. */
export interface ConfigSource { readonly path: string; readonly sha256: string }

export interface ConfigFile {
  readonly source: ConfigSource;
  readonly data: Readonly<Record<string, unknown>>;
  readonly parts: Parts;
}

const CODE = ['.ts', '.mts', '.js', '.mjs'];

export async function loadConfigFile(file: string): Promise<ConfigFile> {
  const path = resolve(file), kind = extname(path).toLowerCase();
  const bytes = await readFile(path).catch((error: unknown) => {
    const refused = fault('read the config', file, error);
    throw new ConfigError(refused instanceof UserError ? refused.message.split('\n')[0] : String(error), 'text to train on is named by --data PATH', error);
  });
  const source = { path, sha256: createHash('sha256').update(bytes).digest('hex') };
  if (kind === '.json') return { source, data: asObject(readJson(bytes, file), file), parts: {} };
  if (!CODE.includes(kind)) throw new ConfigError(`${file} is no config: it ends neither in .json nor in .ts or .js`, 'text to train on is named by --data PATH');
  return { source, ...split(asObject(await importDefault(path, file), file)) };
}

function readJson(bytes: Uint8Array, file: string): unknown {
  try {
    return parseJson(bytes, file);
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    throw new ConfigError(error.message.split('\n')[0], error.cause instanceof SyntaxError ? 'a .ts config may have comments and no quotes' : error.hint, error);
  }
}

async function importDefault(path: string, file: string): Promise<unknown> {
  let module: { readonly default?: unknown };
  try {
    module = (await import(pathToFileURL(path).href)) as { readonly default?: unknown };
  } catch (error) {
    const [message] = (error instanceof Error ? error.message : String(error)).trim().split('\n');
    throw new ConfigError(`${file}: ${message}`, '--debug shows where', error);
  }
  if (module.default === undefined) throw new ConfigError(`${file} has no default export`, 'export default { model, data, steps, ... }');
  return module.default;
}

function asObject(value: unknown, file: string): Record<string, unknown> {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  throw new ConfigError(`${file} holds no object`, '{ "steps": 1000, "data": ["PATH"], ... }');
}

const has = (value: unknown, method: string): boolean =>
  typeof value === 'object' && value !== null && typeof (value as Record<string, unknown>)[method] === 'function';

/** A value that a file built is told from data by what it can do. */
const BUILT: Readonly<Record<keyof Parts, (value: unknown) => boolean>> = {
  model: (v) => has(v, 'forward'),
  data: (v) => typeof v === 'function' || has(v, 'batches'),
  loss: (v) => typeof v === 'function',
  optimizer: (v) => typeof v === 'function' || has(v, 'update'),
  metrics: () => true,
  loggers: (v) => Array.isArray(v),
};

function split(value: Record<string, unknown>): { data: Record<string, unknown>; parts: Parts } {
  const data = { ...value }, parts: Record<string, unknown> = {};
  for (const [key, built] of Object.entries(BUILT)) {
    if (value[key] === undefined || !built(value[key])) continue;
    parts[key] = value[key];
    delete data[key];
  }
  if (parts['model']) data['model'] = null;
  return { data, parts };
}
