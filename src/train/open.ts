// Opens a trained model from its checkpoint, for evaluation, generation and benchmarks. In: the path of a checkpoint or
// of a run folder; out: a session with the checkpoint's parameters, and their experiment.
import { loadCheckpoint } from '../io/checkpoint-file.ts';
import { resolveCheckpoint } from '../io/run-folder.ts';
import { checkPolicies, policiesFor } from '../recompile/policies/select.ts';
import type { RecompileEvent } from '../recompile/rule.ts';
import { compile, node } from '../session/node.ts';
import type { DeviceName } from '../session/platform.ts';
import type { Session } from '../session/session.ts';
import { parseSettings, rebuild, type RunSettings } from './configure.ts';
import type { Experiment } from './experiment.ts';
import { checkRoom } from '../session/room.ts';
import { Updating } from '../session/updating.ts';
import { Knobs } from '../trace/knobs.ts';
import { nameParameters } from '../trace/module.ts';
import type { Config } from './schema.ts';

export interface OpenOptions {
  readonly device?: DeviceName | undefined;
  readonly threads?: number | undefined;
  /** Replaces the config file that the checkpoint names. */
  readonly config?: string | undefined;
  /** Policies that may recompile inference. */
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
  const experiment = await rebuild(settings, path, options.say, options.config);
  // Without an optimiser, because nothing is trained: weights may then lie as products read them.
  const session = await openSession(experiment, { ...options, seed: meta.seed, trains: false });
  try {
    await session.restoreCheckpoint(await loadCheckpoint(path), 'parameters');
    checkPolicies(experiment.model, options.recompile ?? 'off');
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
  /** Memory limit in bytes; default: that of the config, else the free memory. */
  readonly memory?: number | undefined;
  readonly say: (line: string) => void;
  readonly observe?: boolean;
  /** Whether the session trains; default true. */
  readonly trains?: boolean;
  readonly events?: (event: RecompileEvent) => void;
}

/** A session for an experiment, on the device that the caller or the config names. */
export function openSession(
  { model, loss, optimizer, config }: Experiment,
  {
    device = config.device,
    threads = config.threads,
    seed = config.seed,
    memory = memoryOf(config),
    say,
    events,
    observe = false,
    trains = true,
  }: SessionOptions,
): Promise<Session> {
  // If the caller listens to events, it gets an event when a rule fails, so no line is printed.
  const told = (line: string, topic?: 'rule'): void => {
    if (!(events && topic === 'rule')) say(line);
  };
  return compile(model, {
    loss,
    device,
    seed,
    say: told,
    observe,
    ...(events && { events }),
    ...(trains && { optimizer, accumulate: config.accumulate }),
    precision: config.precision,
    ...(threads !== undefined && { threads }),
    ...(memory !== undefined && { memory }),
  });
}

const memoryOf = ({ memory }: Config): number | undefined => (memory === undefined ? undefined : memory * 2 ** 20);

/**
 * Throws MemoryError if the states and one batch of an experiment need more memory than there is. Opens, reads and
 * traces nothing.
 */
export function checkTraining({ model, optimizer, config, context }: Experiment): void {
  const named = nameParameters(model),
    { batch, accumulate } = config;
  const { trained } = new Updating(named, optimizer, new Knobs(named)).options();
  // Tokens and targets, int32.
  checkRoom(
    named,
    { bytes: memoryOf(config) ?? node.freeMemory(), precision: config.precision },
    { optimizer, trained, sums: accumulate > 1, batch: 8 * batch * context },
  );
}
