// Where a folder is that is written to for long: it may be renamed or removed meanwhile. In: a folder; out: its path now. A folder is known
// by its number on its file system. Where the system tells the path of an open folder (Linux), a renamed one is found again.
import { open, readlink, stat, type FileHandle } from 'node:fs/promises';

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

  get path(): string { return this.#path; }

  /** The folder's path now; null: it is gone, or nobody tells where it is. */
  async find(): Promise<string | null> {
    if (await this.is(this.#path)) return this.#path;
    const moved = this.#folder ? await readlink(`/proc/self/fd/${this.#folder.fd}`).catch(() => null) : null;
    if (moved === null || !await this.is(moved)) return null;
    this.#path = moved;
    return moved;
  }

  async is(path: string): Promise<boolean> { return this.#id !== null && await idOf(path) === this.#id; }

  async close(): Promise<void> { await this.#folder?.close(); }
}

/** What tells a file or folder from others; null: there is none. */
export const idOf = (path: string): Promise<string | null> => stat(path, { bigint: true }).then((s) => `${s.dev} ${s.ino}`, () => null);
