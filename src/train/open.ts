// A trained model from its checkpoint alone: for evaluation, generation, benchmarks. In: a checkpoint's path or a run folder;
// out: a session with the checkpoint's parameters, and the experiment they belong to.
import { loadCheckpoint } from '../io/checkpoint-file.ts';
import { resolveCheckpoint } from '../io/run-folder.ts';
import { policiesFor } from '../recompile/policies.ts';
import type { RecompileEvent } from '../recompile/rule.ts';
import { compile } from '../session/node.ts';
import type { DeviceName } from '../session/platform.ts';
import type { Session } from '../session/session.ts';
import { parseSettings, rebuild, type RunSettings } from './configure.ts';
import type { Experiment } from './experiment.ts';

export interface OpenOptions {
  readonly device?: DeviceName | undefined;
  readonly threads?: number | undefined;
  /** Stands in for the config file that the checkpoint names. */
  readonly config?: string | undefined;
  /** Policies that watch inference. */
  readonly recompile?: string | undefined;
  readonly events?: (event: RecompileEvent) => void;
  readonly say: (line: string) => void;
}

export interface Opened {
  readonly path: string;
  readonly step: number;
  readonly settings: RunSettings;
  readonly experiment: Experiment;
  readonly session: Session;
}

export async function openCheckpoint(where: string, options: OpenOptions): Promise<Opened> {
  const path = await resolveCheckpoint(where);
  const { meta, file } = await loadCheckpoint(path);
  await file.close();
  const settings = parseSettings(meta.config, path);
  const experiment = await rebuild(settings, options.say, options.config);
  const session = await openSession(experiment, { ...options, seed: meta.seed });
  try {
    await session.restoreCheckpoint(await loadCheckpoint(path), 'parameters');
    for (const rule of policiesFor(experiment.model, options.recompile ?? 'off')) session.recompile(rule, 'inference');
  } catch (error) {
    await session.close();
    throw error;
  }
  return { path, step: meta.step, settings, experiment, session };
}

export interface SessionOptions {
  readonly device?: DeviceName | undefined;
  readonly threads?: number | undefined;
  readonly seed?: number;
  readonly say: (line: string) => void;
  readonly observe?: boolean;
  readonly events?: (event: RecompileEvent) => void;
}

/** A session for an experiment, on the device that the config or the caller names. */
export function openSession(
  { model, loss, optimizer, config }: Experiment,
  { device = config.device, threads = config.threads, seed = config.seed, say, events, observe = false }: SessionOptions,
): Promise<Session> {
  return compile(model, { loss, optimizer, device, seed, say, observe, ...(events && { events }), accumulate: config.accumulate, ...(threads !== undefined && { threads }), ...(config.memory !== undefined && { memory: config.memory * 2 ** 20 }) });
}
