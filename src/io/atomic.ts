// Writes files atomically. In: a path and its bytes, in chunks; out: the file, complete and flushed to disk. The bytes
// go to a temporary file in the same folder, which is flushed and renamed over the old one; then the folder is
// flushed. Readers, and whoever looks after a crash, find either the old content or the new one.
import { randomBytes } from 'node:crypto';
import { access, constants, open, readdir, realpath, rename, stat, unlink, type FileHandle } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { UserError } from '../base/errors.ts';
import { hashHex } from '../base/hash.ts';
import { fault, shownPath } from './fault.ts';

const TEMPORARY = /^\.(.+)\.[0-9a-f]{16}\.tmp$/; // .NAME.NONCE.tmp
const LONG = 200; // longer names (in bytes) are hashed: with the suffix they would exceed the limit of file systems
const SLICE = 64 * 1024 * 1024; // a single write(2) takes at most 2 GiB
const STALE_MS = 3600_000;

/**
 * Replaces the file at `path`. A chunk is written before the next one is requested, so chunks may share memory. Links
 * are followed, and an existing file keeps its mode. Rejects with a UserError that names the path if the file system
 * refuses or if something other than a file is there; nothing has changed then.
 */
export async function writeAtomic(
  path: string,
  chunks: Iterable<Uint8Array> | AsyncIterable<Uint8Array>,
): Promise<void> {
  const refuse = (error: unknown): never => {
    throw fault('write', path, error);
  };
  const target = await realpath(path).catch(() => path),
    there = await stat(target).catch(() => null);
  // Checked first, because a rename would replace even a device or a read-only file.
  if (there && !there.isFile())
    throw new UserError(
      `cannot write ${shownPath(path)}: it is ${there.isDirectory() ? 'a folder' : 'not a file'}`,
      'name a file',
    );
  if (there) await access(target, constants.W_OK).catch(refuse);
  const folder = dirname(target),
    name = tagOf(basename(target));
  await sweep(folder, name);
  const temporary = join(folder, `.${name}.${randomBytes(8).toString('hex')}.tmp`);
  const file = await open(temporary, 'wx').catch(refuse);
  try {
    try {
      if (there) await file.chmod(there.mode & 0o777).catch(() => undefined); // not every file system has modes
      for await (const chunk of chunks) await writeAll(file, chunk).catch(refuse);
      await file.sync().catch(refuse);
    } finally {
      await file.close();
    }
    await rename(temporary, target).catch(refuse);
  } catch (error) {
    await unlink(temporary).catch(() => undefined);
    throw error;
  }
  await syncFolder(folder);
}

/** The part of a temporary file's name that identifies its target. */
const tagOf = (name: string): string => (Buffer.byteLength(name) > LONG ? hashHex(name) : name);

async function writeAll(file: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.byteLength;) {
    at += (await file.write(bytes, at, Math.min(SLICE, bytes.byteLength - at))).bytesWritten;
  }
}

/** Flushes a folder, so that a rename survives a power failure. Does nothing on systems that cannot (Windows). */
async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, 'r').catch(() => undefined);
  if (handle === undefined) return;
  await handle.sync().catch(() => undefined);
  await handle.close();
}

/** Removes temporary files of the same target that have not been written to for an hour: their writers were killed. */
async function sweep(folder: string, tag: string): Promise<void> {
  for (const { file, of } of await temporaries(folder)) {
    if (of !== tag) continue;
    const age = Date.now() - (await stat(file).catch(() => ({ mtimeMs: Infinity }))).mtimeMs;
    if (age > STALE_MS) await unlink(file).catch(() => undefined);
  }
}

/** Removes all temporary files in a folder. The caller must hold the folder's lock. */
export async function removeTemporaries(folder: string): Promise<void> {
  for (const { file } of await temporaries(folder)) await unlink(file).catch(() => undefined);
}

/** Whether a file name is that of a temporary file of `writeAtomic`. */
export const isTemporary = (name: string): boolean => TEMPORARY.test(name);

async function temporaries(folder: string): Promise<{ file: string; of: string }[]> {
  const names = await readdir(folder).catch(() => []);
  return names.flatMap((name) => {
    const match = TEMPORARY.exec(name);
    return match === null ? [] : [{ file: join(folder, name), of: match[1] }];
  });
}
