// Whether a run can be continued from its checkpoint exactly: with the same data, and not beyond its last step.
import { UserError } from '../base/errors.ts';
import { TextDataset } from '../data/text.ts';
import { loadCheckpoint } from '../io/checkpoint-file.ts';
import { ConfigError } from './config-error.ts';
import type { TrainingData } from './experiment.ts';
import type { Config } from './schema.ts';
import { dataChange, type DataMark } from './snapshot.ts';

/** What a checkpoint stores to identify the data. */
export async function dataMark(data: TrainingData): Promise<DataMark> {
  const fingerprint = await data.fingerprint();
  if (!(data instanceof TextDataset)) return { fingerprint };
  const { files, bytes } = await data.info();
  return { fingerprint, files: files.length, bytes };
}

/** Rejects if the run cannot be continued from its checkpoint exactly. */
export async function checkResume(
  { out, config }: { readonly out: string; readonly config: Config },
  { path, step: has }: { readonly path: string; readonly step: number },
  mark: DataMark,
): Promise<void> {
  if (has > config.steps)
    throw new ConfigError(
      `the run in ${out} has done ${has} steps, more than the ${config.steps} it should have in all`,
      `--steps ${2 * has} continues to step ${2 * has}`,
    );
  const { meta, file } = await loadCheckpoint(path);
  await file.close();
  const change = dataChange(meta, mark);
  if (change === null) return;
  throw new UserError(
    `the data${config.data.length > 0 ? ` in ${config.data.join(', ')}` : ''} is not what the run ` +
      `in ${out} was started with: ${change}`,
    'the run cannot be continued exactly: restore the files, or start a new run; name data that has moved by --data',
  );
}
