// Files that are written whole or not at all. In: a path and its bytes, in chunks; out: the file, complete and on the disk.
// The bytes go to a temporary file in the same folder, which is flushed and renamed over the old one; then the folder is
// flushed. Whoever reads the path, and whatever kills the writer, finds the old content or the new one.
import { randomBytes } from 'node:crypto';
import { open, readdir, rename, stat, unlink, type FileHandle } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { fault } from './fault.ts';
import { isRunning } from './process.ts';

const TEMPORARY = /^\.(.+)\.(\d+)-[0-9a-f]{8}\.tmp$/; // .NAME.PID-NONCE.tmp
const SLICE = 64 * 1024 * 1024; // a single write(2) takes at most 2 GiB
const STALE_MS = 3600_000;

/**
 * Replaces the file at `path` by the chunks' bytes. A chunk is written before the next one is asked for, so they may share
 * memory. Rejects with a UserError that names the path where the file system refuses; the old file is then untouched.
 */
export async function writeAtomic(path: string, chunks: Iterable<Uint8Array> | AsyncIterable<Uint8Array>): Promise<void> {
  const folder = dirname(path), name = basename(path);
  await sweep(folder, name);
  const temporary = join(folder, `.${name}.${process.pid}-${randomBytes(4).toString('hex')}.tmp`);
  const refuse = (error: unknown): never => { throw fault('write', path, error); };
  const file = await open(temporary, 'wx').catch(refuse);
  try {
    try {
      for await (const chunk of chunks) await writeAll(file, chunk).catch(refuse);
      await file.sync().catch(refuse);
    } finally {
      await file.close();
    }
    await rename(temporary, path).catch(refuse);
  } catch (error) {
    await unlink(temporary).catch(() => undefined);
    throw error;
  }
  await syncFolder(folder);
}

async function writeAll(file: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.byteLength;) {
    at += (await file.write(bytes, at, Math.min(SLICE, bytes.byteLength - at))).bytesWritten;
  }
}

/** Makes a rename or a new name in a folder durable. Systems that cannot flush a folder (Windows) are left alone. */
async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, 'r').catch(() => undefined);
  if (handle === undefined) return;
  await handle.sync().catch(() => undefined);
  await handle.close();
}

/** Removes what killed writers of `name` left in a folder: only files an hour old whose process no longer runs. */
async function sweep(folder: string, name: string): Promise<void> {
  for (const { file, of, pid } of await temporaries(folder)) {
    if (of !== name || isRunning(pid)) continue;
    const age = Date.now() - (await stat(file).catch(() => ({ mtimeMs: Infinity }))).mtimeMs;
    if (age > STALE_MS) await unlink(file).catch(() => undefined);
  }
}

/** Removes every temporary file in a folder that nobody else writes to (its lock is held). */
export async function removeTemporaries(folder: string): Promise<void> {
  for (const { file } of await temporaries(folder)) await unlink(file).catch(() => undefined);
}

/** Whether a file name is one of ours that is only there while a file is being written. */
export const isTemporary = (name: string): boolean => TEMPORARY.test(name);

async function temporaries(folder: string): Promise<{ file: string; of: string; pid: number }[]> {
  const names = await readdir(folder).catch(() => []);
  return names.flatMap((name) => {
    const match = TEMPORARY.exec(name);
    return match === null ? [] : [{ file: join(folder, name), of: match[1], pid: Number(match[2]) }];
  });
}
