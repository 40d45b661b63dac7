// Files that are written whole or not at all. In: a path and its bytes, in chunks; out: the file, complete and on the
// disk. The bytes go to a temporary file in the same folder, which is flushed and renamed over the old one; then the
// folder is flushed. Whoever reads the path, and whatever kills the writer, finds the old content or the new one.
import { randomBytes } from 'node:crypto';
import { access, constants, open, readdir, realpath, rename, stat, unlink, type FileHandle } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { UserError } from '../base/errors.ts';
import { hashHex } from '../base/hash.ts';
import { fault, shownPath } from './fault.ts';

const TEMPORARY = /^\.(.+)\.[0-9a-f]{16}\.tmp$/; // .NAME.NONCE.tmp
const LONG = 200; // bytes of a name that would be too long with what is added
const SLICE = 64 * 1024 * 1024; // a single write(2) takes at most 2 GiB
const STALE_MS = 3600_000;

/**
 * Replaces the file at `path` by the chunks' bytes. A chunk is written before the next one is asked for, so they may
 * share memory. A link is followed, and a file that was there keeps its mode. Rejects with a UserError that names the
 * path where the file system refuses, or where something is there that is no file; what was there is then untouched.
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
  // A rename would put a file in the place of a device, and of a file that must not be written to.
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

/** The part of a temporary file's name that tells which file it is to become. */
const tagOf = (name: string): string => (Buffer.byteLength(name) > LONG ? hashHex(name) : name);

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

/** Removes what killed writers of a file left in a folder: only what nobody wrote to for an hour. */
async function sweep(folder: string, tag: string): Promise<void> {
  for (const { file, of } of await temporaries(folder)) {
    if (of !== tag) continue;
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

async function temporaries(folder: string): Promise<{ file: string; of: string }[]> {
  const names = await readdir(folder).catch(() => []);
  return names.flatMap((name) => {
    const match = TEMPORARY.exec(name);
    return match === null ? [] : [{ file: join(folder, name), of: match[1] }];
  });
}
