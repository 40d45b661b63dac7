// The initial parameters of a run that fine-tunes: those of a checkpoint. In: `init` of a config; out: the session with
// these values, and lines that name what was not taken as it is.
import { UserError } from '../base/errors.ts';
import type { HostTensor } from '../base/tensor.ts';
import { isParameter } from '../graph/state.ts';
import { loadCheckpoint } from '../io/checkpoint-file.ts';
import { hasCheckpoint, resolveCheckpoint } from '../io/run-folder.ts';
import { initFrom } from '../session/init.ts';
import type { Session } from '../session/session.ts';
import { ConfigError } from './config-error.ts';
import type { RunRanks } from './ranks.ts';
import type { Config } from './schema.ts';
import type { Experiment } from './experiment.ts';

interface InitialRun {
  readonly experiment: Experiment;
  readonly out: string;
  readonly resume?: boolean;
  readonly say: (line: string) => void;
}

/**
 * Sets the parameters of a run that has `init` and does not continue from a checkpoint of its own. Rejects with a
 * UserError, with nothing changed, if the checkpoint does not fit the model.
 */
export async function initialise(
  session: Session,
  { experiment, out, resume = false, say }: InitialRun,
  together: RunRanks,
): Promise<void> {
  const { init } = experiment.config;
  if (!init) return;
  // A run that is resumed has a checkpoint, unless it was killed before it could write the first.
  if (resume && together.decided(await hasCheckpoint(out))) return;
  if (together.ranks)
    throw new ConfigError('init starts no run over ranks', 'start it in one process, and --resume it over ranks');
  await setFrom(session, init, say);
}

/** Sets the parameters of a session from a checkpoint file, or the newest one of a run folder. */
async function setFrom(
  session: Session,
  { checkpoint, rename, skip }: NonNullable<Config['init']>,
  say: (line: string) => void,
): Promise<void> {
  const path = await resolveCheckpoint(checkpoint),
    { meta, file } = await loadCheckpoint(path),
    tensors = new Map<string, HostTensor>();
  try {
    const states = new Set(meta.states);
    for (const name of file.tensors.keys()) if (isParameter(name, states)) tensors.set(name, await file.read(name));
  } finally {
    await file.close();
  }
  const { taken, renamed, kept, unused } = await initFrom(session, tensors, { rename, skip, where: path });
  if (taken === 0) throw new UserError(`${path}: no tensor is left to start from`, 'skip fewer tensors');
  say(`starts from ${taken} tensors of ${path} (step ${meta.step})`);
  for (const { from, to } of renamed) say(`  renamed: ${from} to ${to}`);
  for (const name of unused) say(`  left out: ${name} of the checkpoint`);
  for (const name of kept) say(`  initial values: ${name}`);
}
