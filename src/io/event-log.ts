// A run's events, one JSON object a line, only ever added to. In: events; out: the file. Each event is handed to the
// system as it comes, so a killed process loses none; opening the log again drops a torn last line and what lies after
// the checkpoint that the run goes on from, so that the file reads as if nothing had happened. It is read in pieces: a
// log may be larger than memory.
import { appendFileSync, existsSync, ftruncateSync, readSync, renameSync } from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import { fault } from './fault.ts';
import { nextLines } from './lines.ts';
import { idOf } from './place.ts';

export class EventLog {
  #file: FileHandle;
  #path: string;

  /** Bytes of the events that were written whole. */
  #size: number;

  private constructor(path: string, file: FileHandle, size: number) {
    this.#path = path;
    this.#file = file;
    this.#size = size;
  }

  /** Opens or creates the log, keeping what was written up to and including `step` (undefined: keep nothing). */
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
   * Adds one event: an object without line breaks in its JSON. Throws a UserError where the file system refuses; what
   * it took of the event (a disk may be full in the middle of it) is taken away again, so that the next event has a
   * line of its own.
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
        /* readers leave a torn line out */
      }
      throw fault('write', this.#path, error);
    }
  }

  readonly #unread = (error: unknown): never => {
    throw fault('read', this.#path, error);
  };

  /** Whether the file at a path is this log. */
  async isAt(path: string): Promise<boolean> {
    const { dev, ino } = await this.#file.stat({ bigint: true }).catch(this.#unread);
    return (await idOf(path)) === `${dev} ${ino}`;
  }

  /**
   * The log is to be at `path`, where it may have been removed or replaced: true where it was, and is written there
   * anew, with every event; what took its place is kept under another name.
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
    // Without a pause: an event that comes meanwhile would be lost.
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

  /** Waits until every event lies on the disk. */
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
 * How many bytes of a log to keep: up to the end of the last event that comes before the first one whose `step` is
 * after `step`. A line that is no event (a torn one) stays where events follow it; nothing else is lost by it.
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

/** PATH.1, PATH.2, ...: the first that is free. */
export function freeName(path: string): string {
  for (let n = 1; ; n++) if (!existsSync(`${path}.${n}`)) return `${path}.${n}`;
}
