// A lock that allows one writer per folder. It is held until it is released or its process ends, in any way. Every
// process creates a lock file with a unique name and then looks for others: of two processes that start at the same
// time, the later one must see the file of the earlier one, so at most one continues (both may refuse). The lock of a
// dead process is removed; because names are unique, no other lock can be removed by mistake.
import { randomBytes } from 'node:crypto';
import { readdir, readFile, stat, unlink, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { UserError } from '../base/errors.ts';
import { fault, shownPath } from './fault.ts';
import { isThere } from './place.ts';
import { isRunning, NO_START, pidSpace, startOf } from './process.ts';

const NAME = /^lock\.([0-9a-f]{8})\.(\d+)\.(\d+)\.[0-9a-f]{8}$/; // lock.WHERE.PID.START.NONCE
const BEAT_MS = 10_000; // the holder touches its file this often
const SILENT_MS = 60_000; // a holder on another machine or in another container counts as dead after this time

export interface Lock {
  /** Whether the lock's file is in this folder. */
  isIn(folder: string): Promise<boolean>;
  release(): Promise<void>;
  /** Tells the lock that the folder was moved to another path. */
  follow(folder: string): void;
}

/** Whether a file name is that of a lock. */
export const isLock = (name: string): boolean => NAME.test(name);

/** Locks the folder for this process. Rejects with a UserError that names the process that holds it. */
export async function lockFolder(folder: string): Promise<Lock> {
  const name = `lock.${pidSpace()}.${process.pid}.${startOf(process.pid)}.${randomBytes(4).toString('hex')}`;
  let path = join(folder, name);
  const release = (): Promise<void> => unlink(path).catch(() => undefined);
  const write = (flag: string): Promise<void> => writeFile(path, `process ${process.pid} on ${hostname()}\n`, { flag });
  await write('wx').catch((error: unknown) => {
    throw fault('write', path, error);
  });
  try {
    const refuse = (error: unknown): never => {
      throw fault('read', folder, error);
    };
    // the time by the clock of the file system, which may be on another machine
    const now = (await stat(path).catch(refuse)).mtimeMs;
    for (const other of await readdir(folder).catch(refuse)) {
      if (other === name || !isLock(other)) continue;
      if (await isHeld(folder, other, now)) throw await inUse(folder, other);
      await unlink(join(folder, other)).catch(() => undefined);
    }
  } catch (error) {
    await release();
    throw error;
  }
  const beat = setInterval(() => {
    write('r+').catch(() => undefined);
  }, BEAT_MS).unref();
  return {
    isIn: (where) => isThere(join(where, name)),
    release: () => {
      clearInterval(beat);
      return release();
    },
    follow: (where) => {
      path = join(where, name);
    },
  };
}

async function isHeld(folder: string, name: string, now: number): Promise<boolean> {
  const [, where = '', pid, start = NO_START] = NAME.exec(name) ?? [],
    here = where === pidSpace();
  if (here && !isRunning(Number(pid), start)) return false;
  if (here && start !== NO_START) return true;
  // The pid proves nothing here: it may have been reused, or belong to another machine or container.
  const touched = await stat(join(folder, name)).then(
    (s) => s.mtimeMs,
    () => -Infinity,
  );
  return now - touched < SILENT_MS;
}

async function inUse(folder: string, name: string): Promise<UserError> {
  const path = join(folder, name);
  const who = (await readFile(path, 'utf8').catch(() => '')).trim() || 'another process';
  return new UserError(
    `${shownPath(folder)} is in use by ${who}`,
    name.includes(pidSpace())
      ? 'wait for it, stop it, or choose another folder'
      : `if that process is dead, wait ${SILENT_MS / 1000} seconds or delete ${shownPath(path)}`,
  );
}
