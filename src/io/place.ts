// Where a folder is that is written to for long: it may be renamed or removed meanwhile. In: a folder; out: its path
// now. A folder is known by its number on its file system. Where the system tells the path of an open folder (Linux), a
// renamed one is found again.
import { open, readlink, stat, type FileHandle } from 'node:fs/promises';
import { codeOf, fault } from './fault.ts';

/** ESTALE: a network file system lost it. */
const NOT_THERE: readonly string[] = ['ENOENT', 'ENOTDIR', 'ESTALE'];

export class Place {
  readonly #folder: FileHandle | null;
  readonly #id: string | null;
  #path: string;

  private constructor(path: string, folder: FileHandle | null, id: string | null) {
    this.#path = path;
    this.#folder = folder;
    this.#id = id;
  }

  static async open(path: string): Promise<Place> {
    const folder = await open(path, 'r').catch(() => null); // Windows opens no folders
    return new Place(path, folder, await idOf(path));
  }

  get path(): string {
    return this.#path;
  }

  /** The folder's path now; null: it is gone, or nobody tells where it is. */
  async find(): Promise<string | null> {
    if (await this.is(this.#path)) return this.#path;
    const moved = this.#folder ? await readlink(`/proc/self/fd/${this.#folder.fd}`).catch(() => null) : null;
    if (moved === null || !(await this.is(moved))) return null;
    this.#path = moved;
    return moved;
  }

  async is(path: string): Promise<boolean> {
    return this.#id !== null && (await idOf(path)) === this.#id;
  }

  async close(): Promise<void> {
    await this.#folder?.close();
  }
}

/**
 * What tells a file or folder from others; null: there is none. Throws UserError where the system does not say: to take
 * that for "there is none" would begin anew what is still there.
 */
export async function idOf(path: string): Promise<string | null> {
  try {
    const { dev, ino } = await stat(path, { bigint: true });
    return `${dev} ${ino}`;
  } catch (error) {
    if (NOT_THERE.includes(codeOf(error) ?? '')) return null;
    throw fault('read', path, error);
  }
}

/** Whether there is a file or folder. Throws UserError where the system does not say. */
export const isThere = async (path: string): Promise<boolean> => (await idOf(path)) !== null;
