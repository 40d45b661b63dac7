// Follows a run's log while it grows. In: the file's path; out: its complete lines in chunks, each once. A resumed run
// cuts its log back to its checkpoint: this is noticed, and the log is read again from the start.
import { open, type FileHandle } from 'node:fs/promises';
import { codeOf, fault } from '../io/fault.ts';
import { bytesAt, nextLines } from '../io/lines.ts';

export interface Lines {
  /** Whether the log is read again from its start, so that the viewer must discard earlier lines. */
  readonly reset: boolean;
  readonly lines: readonly string[];
}

// This many bytes before the current offset are compared with what was read, to notice a rewritten log. Each line ends
// with its time, so no two are equal.
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

  /** Whether the log has disappeared: its folder was deleted or moved. */
  get gone(): boolean {
    return this.#gone;
  }

  /** The next lines; null: there are no new lines, or the log does not exist yet. */
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
