// Compiled objects on disk. The file of an object is named by the SHA-256 of its bytes, so damage (cut short, filled
// with zeros) is noticed and the object is compiled again. `KEY.ref` is a small file with the name of the object for a
// key. Files are written under random names and then renamed, so processes, threads and containers can share a folder.
// Objects are executed, so bin/cache-folder.mjs decides which folders are safe.
import { hash, randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { mkdtemp, opendir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { UserError } from '../base/errors.ts';
import { fault, reasonOf } from '../io/fault.ts';
import { cacheFolders, refusal } from '../../bin/cache-folder.mjs';

const OBJECT = /^o_[0-9a-f]{64}\.so$/;
const WORK = 'work-'; // prefix of temporary files and of folders in which a compiler works
const STALE_MS = 24 * 3600_000; // older temporary files were left by killed processes
const PROBE = Buffer.alloc(1 << 20); // if a file of this size cannot be written, the folder is full
// errors of dlopen on a file system that forbids execution
const NO_EXEC = /failed to map segment|not permitted|Permission denied/;

/** The folder in use. last: a temporary folder of this process only, the last resort. */
interface Place {
  readonly folder: string;
  readonly last: boolean;
}

export class KernelCache {
  readonly #say: (line: string) => void;
  readonly #candidates = cacheFolders();
  readonly #refused: string[] = [];
  readonly #sound = new Map<string, boolean>();
  #place: Place;
  #swept = false;

  /** say: receives a line when another folder has to be used, and when nothing can be kept for later processes. */
  constructor(say: (line: string) => void) {
    this.#say = say;
    this.#place = this.#next();
  }

  /** The folder in use now. */
  get folder(): string {
    return this.#place.folder;
  }

  /** Whether other processes of this host find what is kept. */
  get isShared(): boolean {
    return !this.#place.last;
  }

  /**
   * The path of the object for a key; null: there is none, or it is damaged. Reads small files at once: a program has
   * hundreds of keys, and handing each read to another thread takes ten times as long.
   */
  find(key: string): string | null {
    const { folder } = this.#place,
      object = contentOf(join(folder, `${key}.ref`))?.toString('latin1') ?? '';
    if (!OBJECT.test(object)) return null;
    const path = join(folder, object),
      sound = this.#sound.get(path) ?? isSound(path);
    this.#sound.set(path, sound);
    return sound ? path : null;
  }

  /**
   * Opens the object of a key with `open`. If there is none, or it cannot be opened, `make` compiles it to the path
   * that it is given. If the folder is full, read-only or forbids execution, the next folder is used; the last one is
   * new and belongs to this process only.
   */
  async load<T>(key: string, make: (target: string) => Promise<void>, open: (path: string) => T): Promise<T> {
    const kept = this.find(key);
    if (kept !== null)
      try {
        return open(kept);
      } catch {
        /* it was made for another machine */
      }
    return this.#within(async (folder) => open(await this.#make(folder, key, make)));
  }

  /** Writes a file beside the objects. Returns its path. */
  write(name: string, text: string): Promise<string> {
    return this.#within((folder) => put(folder, name, text));
  }

  /** Adds a key to an object. If that fails, the next process compiles the kernel again. */
  async link(key: string, path: string): Promise<void> {
    await put(dirname(path), `${key}.ref`, basename(path)).catch(() => undefined);
  }

  async #make(folder: string, key: string, make: (target: string) => Promise<void>): Promise<string> {
    if (!this.#swept) await sweep(folder);
    this.#swept = true;
    const work = await mkdtemp(join(folder, WORK));
    try {
      const target = join(work, 'made.so');
      await make(target);
      const path = join(folder, `o_${hash('sha256', await readFile(target))}.so`);
      await rename(target, path);
      this.#sound.set(path, true);
      await this.link(key, path);
      return path;
    } finally {
      await rm(work, { recursive: true, force: true });
    }
  }

  async #within<T>(work: (folder: string) => Promise<T>): Promise<T> {
    for (;;) {
      const place = this.#place;
      try {
        return await work(place.folder);
      } catch (error) {
        const why = NO_EXEC.test(String(error)) ? 'its files may not be run' : await writeRefusal(place.folder);
        if (why === null) throw fault('keep compiled kernels in', place.folder, error);
        // If they differ, another call has changed the folder already.
        if (place === this.#place) this.#place = this.#leave(why, error);
      }
    }
  }

  #leave(why: string, error: unknown): Place {
    this.#refused.push(`${this.#place.folder}: ${why}`);
    if (!this.#place.last) return this.#next();
    throw this.#nowhere(error);
  }

  #nowhere(error: unknown): UserError {
    return new UserError(
      `compiled kernels can be kept nowhere: ${this.#refused.join('; ')}`,
      'set DYNAMOE_CACHE to a folder of yours that can be written to',
      error,
    );
  }

  /** A temporary folder of this process only. */
  #own(): string {
    try {
      return mkdtempSync(join(tmpdir(), 'dynamoe-cache-'));
    } catch (error) {
      this.#refused.push(`${tmpdir()}: ${reasonOf(error)}`);
      throw this.#nowhere(error);
    }
  }

  #next(): Place {
    const told = this.#refused.length,
      named = process.env['DYNAMOE_CACHE'];
    for (let tried = this.#candidates.shift(); tried; tried = this.#candidates.shift()) {
      const why = refusal(tried);
      if (why !== null) this.#refused.push(`${tried.path}: ${why}`);
      else {
        // A read-only home folder is common and harmless, so nothing is said about it.
        if (told > 0 || named) this.#tell(`compiled kernels are kept in ${tried.path}`);
        return { folder: tried.path, last: false };
      }
    }
    const folder = this.#own();
    process.once('exit', () => {
      rmSync(folder, { recursive: true, force: true });
    });
    this.#tell('compiled kernels are not kept for the next time');
    return { folder, last: true };
  }

  #tell(instead: string): void {
    if (this.#refused.length > 0) this.#say(`${instead}: ${this.#refused.join('; ')}`);
  }
}

let own: KernelCache | undefined;

/** The cache of this process. say: receives a line if it is not in its usual place. */
export function kernelCache(say: (line: string) => void): KernelCache {
  return (own ??= new KernelCache(say));
}

/** Whether the hash of an object's bytes is the one in its name. */
function isSound(path: string): boolean {
  const bytes = contentOf(path);
  return bytes !== null && basename(path) === `o_${hash('sha256', bytes)}.so`;
}

/** null: the file cannot be read. */
function contentOf(path: string): Buffer | null {
  try {
    return readFileSync(path);
  } catch {
    return null;
  }
}

/** Writes a file completely or not at all. Does not flush it: it need not survive a loss of power. */
async function put(folder: string, name: string, data: string | Uint8Array): Promise<string> {
  const path = join(folder, name),
    part = join(folder, `${WORK}${randomBytes(8).toString('hex')}`);
  try {
    await writeFile(part, data, { flag: 'wx', mode: 0o600 });
    await rename(part, path);
  } catch (error) {
    await rm(part, { force: true });
    throw error;
  }
  return path;
}

/** Why no file can be written to a folder; null: one can. */
async function writeRefusal(folder: string): Promise<string | null> {
  const name = `${WORK}${randomBytes(8).toString('hex')}`;
  try {
    await rm(await put(folder, name, PROBE), { force: true });
    return null;
  } catch (error) {
    return reasonOf(error);
  }
}

/** Removes temporary files that killed processes left. Reads the folder entry by entry: it may have very many. */
async function sweep(folder: string): Promise<void> {
  const entries = await opendir(folder).catch(() => []);
  try {
    for await (const { name } of entries) {
      if (!name.startsWith(WORK)) continue;
      const path = join(folder, name),
        { mtimeMs } = await stat(path).catch(() => ({ mtimeMs: Infinity }));
      if (Date.now() - mtimeMs > STALE_MS) await rm(path, { recursive: true, force: true });
    }
  } catch {
    // What could not be read or removed now is tried again by a later process.
  }
}
