// What a checkpoint of a run holds besides the session's values: settings, the fingerprint of the data, the last
// validation.
import type { CheckpointContent, CheckpointMeta } from '../io/checkpoint.ts';
import type { Json } from '../io/json.ts';
import { contentOf } from '../session/checkpoint.ts';
import type { Session } from '../session/session.ts';
import type { RunSettings } from './configure.ts';
import type { BestValidation } from './events.ts';

/** The last validation, kept so that a resumed run neither repeats nor misses one. */
export interface LastValidation {
  readonly step: number;
  readonly val_loss: number | null;
  readonly metrics?: Readonly<Record<string, number>>;
}

/** Identifies the data of a run: a resumed run must have the same. The other fields help to say what has changed. */
export interface DataMark {
  readonly fingerprint: string;
  readonly files?: number;
  readonly bytes?: number;
}

/** The best validation, and how many came after it that were not better. */
export interface Progress {
  readonly best: BestValidation | null;
  readonly worse: number;
}
export const NO_PROGRESS: Progress = { best: null, worse: 0 };

export interface SnapshotParts {
  readonly settings: RunSettings;
  readonly data: DataMark;
  readonly validated: LastValidation | null;
  readonly progress: Progress;
}

/** Everything that later steps of the run depend on. */
export function snapshot(session: Session, { settings, data, validated, progress }: SnapshotParts): CheckpointContent {
  return contentOf(session, {
    config: plain(settings),
    data: { ...data, batch: session.steps },
    extra: { validated: plain(validated), progress: plain(progress) },
  });
}

const plain = (value: object | null): Json => JSON.parse(JSON.stringify(value)) as Json;

export function validatedIn(meta: CheckpointMeta): LastValidation | null {
  return (meta.extra as { validated?: LastValidation | null } | undefined)?.validated ?? null;
}

/** A checkpoint of an older version has none. */
export function progressIn(meta: CheckpointMeta): Progress {
  return (meta.extra as { progress?: Progress } | undefined)?.progress ?? NO_PROGRESS;
}

/** How the data differs from that of the checkpoint; null: it is the same. */
export function dataChange(meta: CheckpointMeta, now: DataMark): string | null {
  const before = (meta.data ?? {}) as Partial<DataMark>,
    size = ({ files, bytes }: Partial<DataMark>): string =>
      `${bytes} bytes of text in ${files} ${files === 1 ? 'file' : 'files'}`;
  if (before.fingerprint === now.fingerprint) return null;
  if (before.bytes === undefined || now.bytes === undefined) return 'its fingerprint differs';
  return before.bytes === now.bytes && before.files === now.files
    ? `it has the same size, ${size(now)}, but its contents or their order differ`
    : `it was ${size(before)} and is ${size(now)}`;
}
