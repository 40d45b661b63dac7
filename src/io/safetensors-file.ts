// Safetensors files on disk. Tensors are read on request. Files are written atomically, with one tensor in memory at a
// time.
import { open, type FileHandle } from 'node:fs/promises';
import { writeAtomic } from './atomic.ts';
import { fault } from './fault.ts';
import { encodeSafetensors, openSource, type Safetensors, type TensorSource } from './safetensors-bytes.ts';
import { cutShort } from './safetensors.ts';

/** Writes a safetensors file atomically. The values must not change until the promise resolves. */
export async function writeSafetensors(
  path: string,
  tensors: readonly TensorSource[],
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  await writeAtomic(path, encodeSafetensors(tensors, metadata));
}

/**
 * Opens a file and reads its header. Rejects with a UserError that names the file and the offset of the error. The
 * open file does not change, even if the path is replaced.
 */
export async function openSafetensors(path: string): Promise<Safetensors> {
  const file = await open(path, 'r').catch((error: unknown) => {
    throw fault('read', path, error);
  });
  const { size } = await file.stat().catch(async (error: unknown) => {
    await file.close();
    throw fault('read', path, error);
  });
  return openSource({
    where: path,
    size,
    read: (offset, into) => readAt(file, path, offset, into),
    close: () => file.close(),
  });
}

const SLICE = 256 * 1024 * 1024; // a single read(2) gives at most 2 GiB

async function readAt(file: FileHandle, path: string, offset: number, into: Uint8Array): Promise<void> {
  for (let done = 0; done < into.byteLength;) {
    const part = await file
      .read(into, done, Math.min(SLICE, into.byteLength - done), offset + done)
      .catch((error: unknown) => {
        throw fault('read', path, error);
      });
    if (part.bytesRead === 0)
      throw cutShort(path, offset + done, `${into.byteLength - done} more bytes, the file ends`);
    done += part.bytesRead;
  }
}
