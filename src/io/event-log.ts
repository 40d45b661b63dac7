// The log of a run: one JSON object per line, append-only. Each event is written to the system at once, so a killed
// process loses none. Reopening the log removes an incomplete last line and everything after the checkpoint from which
// the run continues. The file is read in pieces, because it may be larger than memory.
import { appendFileSync, existsSync, ftruncateSync, readSync, renameSync } from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import { fault } from './fault.ts';
import { nextLines } from './lines.ts';
import { idOf } from './place.ts';

export class EventLog {
  #file: FileHandle;
  #path: string;

  /** Size in bytes of the events that were written completely. */
  #size: number;

  private constructor(path: string, file: FileHandle, size: number) {
    this.#path = path;
    this.#file = file;
    this.#size = size;
  }

  /** Opens or creates the log. Keeps the events up to and including `step` (undefined: none). */
  static async open(path: string, step: number | undefined): Promise<EventLog> {
    const refuse = (error: unknown): never => {
      throw fault('write', path, error);
    };
    const file = await open(path, 'a+').catch(refuse);
    try {
      const kept = step === undefined ? 0 : await keptBytes(file, step).catch(refuse);
      await file.truncate(kept).catch(refuse);
      return new EventLog(path, file, kept);
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /**
   * Appends one event. Throws a UserError if the file system refuses. An incomplete line (the disk may have become
   * full) is then removed, so that the next event starts on a line of its own.
   */
  append(event: object): void {
    const line = Buffer.from(`${JSON.stringify(event)}\n`);
    try {
      appendFileSync(this.#file.fd, line);
      this.#size += line.length;
    } catch (error) {
      try {
        ftruncateSync(this.#file.fd, this.#size);
      } catch {
        /* readers skip an incomplete line */
      }
      throw fault('write', this.#path, error);
    }
  }

  readonly #unread = (error: unknown): never => {
    throw fault('read', this.#path, error);
  };

  /** Whether the file at a path is this log's file. */
  async isAt(path: string): Promise<boolean> {
    const { dev, ino } = await this.#file.stat({ bigint: true }).catch(this.#unread);
    return (await idOf(path)) === `${dev} ${ino}`;
  }

  /**
   * Makes sure that the log is at `path`. If it was removed or replaced there, writes it again with all events, and
   * returns true; a file that took its place is renamed.
   */
  async keepAt(path: string): Promise<boolean> {
    this.#path = path;
    if (await this.isAt(path)) {
      this.#size = (await this.#file.stat().catch(this.#unread)).size;
      return false;
    }
    const refuse = (error: unknown): never => {
      throw fault('write', path, error);
    };
    try {
      if (existsSync(path)) renameSync(path, freeName(path));
    } catch (error) {
      refuse(error);
    }
    const old = this.#file,
      fresh = await open(path, 'ax+').catch(refuse);
    // Synchronous, because an event appended during an await would be lost.
    const piece = Buffer.allocUnsafe(1 << 20);
    try {
      for (let at = 0, read = 0; (read = readSync(old.fd, piece, 0, piece.length, at)) > 0; at += read)
        appendFileSync(fresh.fd, piece.subarray(0, read));
    } catch (error) {
      await fresh.close();
      refuse(error);
    }
    this.#file = fresh;
    await old.close();
    return true;
  }

  /** Flushes all events to disk. */
  async sync(): Promise<void> {
    await this.#file.sync().catch((error: unknown) => {
      throw fault('write', this.#path, error);
    });
  }

  close(): Promise<void> {
    return this.#file.close();
  }
}

/**
 * How many bytes of a log to keep: up to the last event before the first one whose `step` is greater than `step`.
 * Lines that are not valid JSON stay if events follow them.
 */
export async function keptBytes(file: FileHandle, step: number): Promise<number> {
  const { size } = await file.stat();
  let kept = 0,
    at = 0;
  for (let piece = await nextLines(file, at, size); piece; piece = await nextLines(file, at, size)) {
    for (const [i, line] of piece.lines.entries()) {
      const event = parsed(line);
      if (typeof event !== 'object' || event === null) continue;
      if ('step' in event && typeof event.step === 'number' && event.step > step) return kept;
      kept = piece.ends[i];
    }
    at = piece.ends[piece.ends.length - 1];
  }
  return kept;
}

function parsed(line: string): unknown {
  try {
    return JSON.parse(line) as unknown;
  } catch {
    return undefined;
  }
}

/** The first of PATH.1, PATH.2, ... that does not exist. */
export function freeName(path: string): string {
  for (let n = 1; ; n++) if (!existsSync(`${path}.${n}`)) return `${path}.${n}`;
}
