// Compiled objects on disk, by content: safe between processes, since a file appears under its name only when it is complete.
import { existsSync } from 'node:fs';
import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { homedir, platform, tmpdir } from 'node:os';
import { join } from 'node:path';

/** DYNAMOE_CACHE, else the user's cache folder. */
export function cacheFolder(): string {
  const named = process.env['DYNAMOE_CACHE'];
  if (named) return named;
  const base = process.env['XDG_CACHE_HOME'] ?? (platform() === 'darwin' ? join(homedir(), 'Library', 'Caches') : join(homedir(), '.cache'));
  return join(base, 'dynamoe');
}

let serial = 0;
const temporary = (path: string): string => `${path}.${process.pid}.${serial++}.tmp`;

export async function usableCacheFolder(): Promise<string> {
  for (const folder of [cacheFolder(), join(tmpdir(), 'dynamoe-cache')]) {
    try {
      await mkdir(folder, { recursive: true });
      const probe = temporary(join(folder, 'probe'));
      await writeFile(probe, '');
      await rm(probe);
      return folder;
    } catch { /* read-only: the next */ }
  }
  throw new Error(`no folder to keep compiled kernels in: neither ${cacheFolder()} nor ${tmpdir()} can be written; set DYNAMOE_CACHE`);
}

/** The path of `name`, made by `make(temporaryPath)` if it is not there yet. */
export async function cached(folder: string, name: string, make: (path: string) => Promise<void>): Promise<string> {
  const path = join(folder, name);
  if (existsSync(path)) return path;
  const part = temporary(path);
  try {
    await make(part);
    await rename(part, path);
  } finally {
    await rm(part, { force: true });
  }
  return path;
}

export async function readCached(folder: string, name: string): Promise<string | null> {
  try {
    return await readFile(join(folder, name), 'utf8');
  } catch { return null; }
}

export const writeCached = (folder: string, name: string, text: string): Promise<string> =>
  cached(folder, name, (path) => writeFile(path, text));
