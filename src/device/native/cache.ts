// Compiled objects on disk. An object's file is named by the SHA-256 of its bytes, and `KEY.ref`, a small file, names
// the object that was made for a key. So an object that was damaged (cut short, filled with zeros) is noticed and
// compiled again. Files are written under random names and then renamed, so that processes, threads and containers can
// share a folder. Objects are run: bin/cache-folder.mjs decides which folder may hold them.
import { hash, randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { mkdtemp, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { UserError } from '../../base/errors.ts';
import { fault, reasonOf } from '../../io/fault.ts';
import { cacheFolders, refusal } from '../../../bin/cache-folder.mjs';

const OBJECT = /^o_[0-9a-f]{64}\.so$/;
const WORK = 'work-'; // folders in which a compiler works
const STALE_MS = 24 * 3600_000; // one that is older was left by a process that was killed
const PROBE = Buffer.alloc(1 << 20); // a folder that takes no file of this size is full
const NO_EXEC = /failed to map segment|not permitted|Permission denied/; // what dlopen says where files may not be run

/** The folder in use; `last`: it was made for this process alone. */
interface Place {
  readonly folder: string;
  readonly last: boolean;
}

export class KernelCache {
  readonly #say: (line: string) => void;
  readonly #candidates = cacheFolders();
  readonly #refused: string[] = [];
  readonly #sound = new Map<string, Promise<boolean>>();
  #place: Place;
  #swept = false;

  /** `say` is told in one line where a folder has to be left, and where nothing can be kept for the next process. */
  constructor(say: (line: string) => void) {
    this.#say = say;
    this.#place = this.#next();
  }

  /** Where objects are kept now. */
  get folder(): string {
    return this.#place.folder;
  }

  /** The object that is kept for a key; null: there is none, or it is damaged. */
  async find(key: string): Promise<string | null> {
    const { folder } = this.#place,
      object = await readFile(join(folder, `${key}.ref`), 'latin1').catch(() => '');
    if (!OBJECT.test(object)) return null;
    const path = join(folder, object),
      known = this.#sound.get(path) ?? isSound(path);
    this.#sound.set(path, known);
    return (await known) ? path : null;
  }

  /**
   * Gives what `open` makes of the object of a key. Where none is kept, or what is kept cannot be opened, `make` writes
   * it to the path that it is given. Where the folder is full, read-only or forbids to run its files, the next folder
   * is taken; the last one is new and belongs to this process alone.
   */
  async load<T>(key: string, make: (target: string) => Promise<void>, open: (path: string) => T): Promise<T> {
    const kept = await this.find(key);
    if (kept !== null)
      try {
        return open(kept);
      } catch {
        /* it was made for another machine */
      }
    return this.#within(async (folder) => open(await this.#make(folder, key, make)));
  }

  /** Writes a file beside the objects; gives its path. */
  write(name: string, text: string): Promise<string> {
    return this.#within((folder) => put(folder, name, text));
  }

  /** One more key of an object. What cannot be kept is compiled again by the next process. */
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
      this.#sound.set(path, Promise.resolve(true));
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
        if (place === this.#place) this.#place = this.#leave(why, error); // else another call has left it already
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

  /** A folder of this process alone. */
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
        // A home that cannot be written to is common, and costs nothing.
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

/** Whether an object has the bytes that its name says. */
const isSound = (path: string): Promise<boolean> =>
  readFile(path).then(
    (bytes) => basename(path) === `o_${hash('sha256', bytes)}.so`,
    () => false,
  );

/** Writes a file whole or not at all. It need not survive a loss of power. */
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

/** Why a folder takes no file; null: it does. */
async function writeRefusal(folder: string): Promise<string | null> {
  const name = `${WORK}${randomBytes(8).toString('hex')}`;
  try {
    await rm(await put(folder, name, PROBE), { force: true });
    return null;
  } catch (error) {
    return reasonOf(error);
  }
}

/** Removes what killed processes left. */
async function sweep(folder: string): Promise<void> {
  for (const name of await readdir(folder).catch(() => [])) {
    if (!name.startsWith(WORK)) continue;
    const path = join(folder, name),
      { mtimeMs } = await stat(path).catch(() => ({ mtimeMs: Infinity }));
    if (Date.now() - mtimeMs > STALE_MS) await rm(path, { recursive: true, force: true }).catch(() => undefined);
  }
}
