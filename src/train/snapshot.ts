// What a run saves beside the session's values: its settings, which data it was, its last validation.
import type { CheckpointContent, CheckpointMeta } from '../io/checkpoint.ts';
import type { Json } from '../io/json.ts';
import { contentOf } from '../session/checkpoint.ts';
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
  return contentOf(session, {
    config: plain(settings), data: { fingerprint, batch: session.steps }, extra: { validated: plain(validated) } });
}

const plain = (value: object | null): Json => JSON.parse(JSON.stringify(value)) as Json;

export function validatedIn(meta: CheckpointMeta): LastValidation | null {
  return (meta.extra as { validated?: LastValidation | null } | undefined)?.validated ?? null;
}

export const fingerprintIn = (meta: CheckpointMeta): string | undefined => (meta.data as { fingerprint?: string } | undefined)?.fingerprint;
