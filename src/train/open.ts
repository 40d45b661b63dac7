// Opens a trained model from its checkpoint, for evaluation, generation and benchmarks. In: the path of a checkpoint or
// of a run folder; out: a session with the checkpoint's parameters, and their experiment.
import { loadCheckpoint } from '../io/checkpoint-file.ts';
import { resolveCheckpoint } from '../io/run-folder.ts';
import { checkPolicies, policiesFor } from '../recompile/policies/select.ts';
import type { RecompileEvent } from '../recompile/rule.ts';
import { compile, node } from '../session/node.ts';
import type { Ranks } from '../device/ranks.ts';
import { isGpu, type DeviceName } from '../session/platform.ts';
import type { Session } from '../session/session.ts';
import { parseSettings, rebuild, type RunSettings } from './configure.ts';
import type { Experiment } from './experiment.ts';
import { checkRoom } from '../session/room.ts';
import { Updating } from '../session/updating.ts';
import { Knobs } from '../trace/knobs.ts';
import { nameParameters } from '../trace/module.ts';
import { fromRank0, RunRanks } from './ranks.ts';
import type { Config } from './schema.ts';

export interface OpenOptions {
  readonly device?: DeviceName | undefined;
  readonly threads?: number | undefined;
  /** Replaces the config file that the checkpoint names. */
  readonly config?: string | undefined;
  /** Policies that may recompile inference. */
  readonly recompile?: string | undefined;
  readonly events?: (event: RecompileEvent) => void;
  readonly ranks?: Ranks | null | undefined;
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
  const { ranks = null, recompile = 'off' } = options,
    together = new RunRanks(ranks);
  // A run that goes on writes newer ones meanwhile: rank 0 decides which one is opened.
  const found = await together.agreed(async () => (together.leads ? resolveCheckpoint(where) : '')),
    path = fromRank0(ranks, () => found);
  const { meta, settings, experiment } = await together.agreed(async () => {
    const { meta, file } = await loadCheckpoint(path);
    await file.close();
    const settings = parseSettings(meta.config, path);
    return { meta, settings, experiment: await rebuild(settings, path, options.say, options.config) };
  });
  // Without an optimiser, because nothing is trained: weights may then lie as products read them.
  const session = await openSession(experiment, { ...options, seed: meta.seed, trains: false });
  try {
    await session.restoreCheckpoint(await together.agreed(() => loadCheckpoint(path)), 'parameters');
    checkPolicies(experiment.model, recompile);
    // Rules of inference keep results identical.
    for (const rule of policiesFor(experiment.model, recompile)) session.recompile(rule, 'inference');
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
  readonly ranks?: Ranks | null | undefined;
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
    ranks = null,
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
    ...(ranks && { ranks }),
    ...(threads !== undefined && { threads }),
    ...(memory !== undefined && { memory }),
  });
}

const memoryOf = ({ memory }: Config): number | undefined => (memory === undefined ? undefined : memory * 2 ** 20);

/**
 * Throws MemoryError if the states and one batch of an experiment need more memory than there is. Opens, reads and
 * traces nothing.
 */
export function checkTraining({ model, optimizer, config, context }: Experiment, ranks: Ranks | null = null): void {
  const named = nameParameters(model),
    { batch, accumulate } = config;
  const { trained } = new Updating(named, optimizer, new Knobs(named)).options();
  // Tokens and targets, int32.
  checkRoom(
    named,
    {
      // A GPU has its own memory, and the session checks it.
      bytes: memoryOf(config) ?? (isGpu(config.device) ? Infinity : node.freeMemory() / (ranks?.onHost.size ?? 1)),
      precision: config.precision,
      ranks: ranks?.size,
    },
    { optimizer, trained, sums: accumulate > 1, batch: 8 * batch * context },
  );
}
