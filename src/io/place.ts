// Tracks a folder that may be renamed or removed while a run writes to it. A folder is identified by its number on its
// file system. Where the system tells the path of an open folder (Linux), a renamed folder is found again.
import { open, readlink, stat, type FileHandle } from 'node:fs/promises';
import { codeOf, fault } from './fault.ts';

/** Error codes for a missing file. ESTALE: a network file system has lost it. */
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

  /** The folder's current path; null: it is gone, or the system does not tell its new path. */
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
 * The identity of a file or folder; null: it does not exist. Throws UserError if the system does not tell: treating
 * that as "does not exist" would overwrite a folder that still exists.
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

/** Whether a file or folder exists. Throws UserError if the system does not tell. */
export const isThere = async (path: string): Promise<boolean> => (await idOf(path)) !== null;
