// Checkpoint files, written atomically.
import { writeAtomic } from './atomic.ts';
import { asCheckpoint, encodeCheckpoint, type Checkpoint, type CheckpointContent } from './checkpoint.ts';
import { openSafetensors } from './safetensors-file.ts';

/**
 * Writes a checkpoint. The old file at `path` stays until the new one is complete on disk. Rejects with a UserError if
 * the file system refuses.
 */
export const saveCheckpoint = (path: string, content: CheckpointContent): Promise<void> =>
  writeAtomic(path, encodeCheckpoint(content));

/**
 * Opens a checkpoint and reads its metadata, but no tensors. Rejects with a UserError if the file is damaged or not a
 * checkpoint.
 */
export const loadCheckpoint = async (path: string): Promise<Checkpoint> => asCheckpoint(await openSafetensors(path));
