// Follows a run's log while it grows. In: the file's path; out: its whole lines, chunk by chunk, each once. A run that
// is resumed cuts its log back to its checkpoint: that is seen, and the log is read again from its start.
import { open, type FileHandle } from 'node:fs/promises';
import { codeOf, fault } from '../io/fault.ts';
import { bytesAt, nextLines } from '../io/lines.ts';

export interface Lines {
  /** These are the first of the log: what was read before counts no longer. */
  readonly reset: boolean;
  readonly lines: readonly string[];
}

// bytes before the place read to that are looked at again: each line ends with its time, so that no two are alike
const TAIL = 64;

export class Follower {
  readonly #path: string;
  #offset = 0;
  #tail = Buffer.alloc(0);
  #fresh = true;
  #gone = false;

  constructor(path: string) {
    this.#path = path;
  }

  /** Whether the log was there and is not any more: its folder was deleted or moved. */
  get gone(): boolean {
    return this.#gone;
  }

  /** The next lines; null: there are none now, or the log is not there yet. */
  async read(): Promise<Lines | null> {
    const file = await open(this.#path, 'r').catch((error: unknown) => {
      if (codeOf(error) === 'ENOENT') return null;
      throw fault('read', this.#path, error);
    });
    this.#gone = !file && !this.#fresh;
    if (!file) return null;
    try {
      return await this.#from(file);
    } finally {
      await file.close();
    }
  }

  async #from(file: FileHandle): Promise<Lines | null> {
    const { size } = await file.stat();
    if (size === this.#offset && !this.#fresh) return null;
    if (
      size < this.#offset ||
      !(await bytesAt(file, this.#offset - this.#tail.length, this.#tail.length)).equals(this.#tail)
    ) {
      this.#offset = 0;
      this.#tail = Buffer.alloc(0);
      this.#fresh = true;
    }
    const piece = await nextLines(file, this.#offset, size),
      reset = this.#fresh;
    if (!piece && !reset) return null;
    this.#fresh = false;
    if (!piece) return { reset, lines: [] };
    this.#offset = piece.ends[piece.ends.length - 1];
    this.#tail = Buffer.from(piece.bytes.subarray(-TAIL));
    return { reset, lines: piece.lines.filter((line) => line !== '') };
  }
}
