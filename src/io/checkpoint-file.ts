// Checkpoints on disk: a file that is a whole or not there. In: a path; out: the file, and back.
import { writeAtomic } from './atomic.ts';
import { asCheckpoint, encodeCheckpoint, type Checkpoint, type CheckpointContent } from './checkpoint.ts';
import { openSafetensors } from './safetensors-file.ts';

/**
 * Writes a checkpoint. The file at `path` is the old one until the new one is complete on the disk. Rejects with a
 * UserError where the file system refuses.
 */
export const saveCheckpoint = (path: string, content: CheckpointContent): Promise<void> =>
  writeAtomic(path, encodeCheckpoint(content));

/**
 * Opens a checkpoint and reads its metadata, no tensor yet. Rejects with a UserError for a broken file or another kind
 * of file.
 */
export const loadCheckpoint = async (path: string): Promise<Checkpoint> => asCheckpoint(await openSafetensors(path));
