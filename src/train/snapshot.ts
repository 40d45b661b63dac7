// Between a session and a checkpoint: what a run saves, and how it is restored. In: a session, or a checkpoint's path; out: the
// other, with the same bits.
import { UserError } from '../base/errors.ts';
import type { HostTensor } from '../base/tensor.ts';
import { isParameter, loadCheckpoint, type CheckpointContent, type CheckpointMeta } from '../io/checkpoint.ts';
import type { Json } from '../io/json.ts';
import type { Session } from '../session/session.ts';
import type { RunSettings } from './configure.ts';

/** The last validation, kept so that a resumed run neither repeats nor misses one. */
export interface LastValidation { readonly step: number; readonly val_loss: number | null; readonly metrics?: Readonly<Record<string, number>> }

export interface SnapshotParts {
  readonly settings: RunSettings;
  readonly fingerprint: string;
  readonly validated: LastValidation | null;
}

/** Everything that the rest of the run depends on. */
export function snapshot(session: Session, { settings, fingerprint, validated }: SnapshotParts): CheckpointContent {
  const { optimizer } = session.options;
  return {
    tensors: session.states().map(({ name, dtype, shape, read }) => ({ name, dtype, shape, data: () => read().data })),
    meta: {
      step: session.steps, seed: session.seed, config: plain(settings),
      optimizer: optimizer ? { name: optimizer.name, ...optimizer.settings } : {},
      data: { fingerprint, batch: session.steps },
      extra: { validated: plain(validated) },
    },
  };
}

const plain = (value: object | null): Json => JSON.parse(JSON.stringify(value)) as Json;

export function validatedIn(meta: CheckpointMeta): LastValidation | null {
  return (meta.extra as { validated?: LastValidation | null } | undefined)?.validated ?? null;
}

export const fingerprintIn = (meta: CheckpointMeta): string | undefined => (meta.data as { fingerprint?: string } | undefined)?.fingerprint;

/** Sets a session's values to a checkpoint's: all of them to train on, the parameters alone to use the model. */
export async function restore(session: Session, path: string, what: 'all' | 'parameters'): Promise<CheckpointMeta> {
  const { meta, file } = await loadCheckpoint(path);
  try {
    const values: { name: string; value: HostTensor }[] = [];
    for (const name of file.tensors.keys()) {
      if (!isParameter(name) && what === 'parameters') continue;
      if (isParameter(name) && !session.named.parameters.has(name)) throw misfit(path, `it has a parameter ${name} that the model lacks`);
      values.push({ name, value: await file.read(name) });
    }
    const missing = [...session.named.parameters.keys()].find((name) => !file.tensors.has(name));
    if (missing !== undefined) throw misfit(path, `the model has a parameter ${missing} that it lacks`);
    session.restore(meta.step, values);
    return meta;
  } finally {
    await file.close();
  }
}

const misfit = (path: string, what: string): UserError => new UserError(`${path} does not fit the model: ${what}`,
  'the checkpoint belongs to another model, or the config file that built it has changed');
