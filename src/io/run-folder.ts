// The folder of a training run. In: a path, and whether to continue a run; out: its newest undamaged checkpoint, and
// functions to add events and checkpoints, for one process at a time. A run that was killed at any moment continues
// from its newest checkpoint, or from the start if there is none.
//
//   run.json                     the settings of the run (the caller's JSON)
//   events.jsonl                 the log: one JSON object per line
//   step-00002000.safetensors    checkpoints; the newest `keep` of them stay
//   best.safetensors             that of the best validation, if it is kept
//   lock.*, .*.tmp               exist only while a process writes here, or after it was killed
import { readdir, readFile, stat, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { UserError } from '../base/errors.ts';
import { isTemporary, removeTemporaries, writeAtomic } from './atomic.ts';
import type { CheckpointContent } from './checkpoint.ts';
import { loadCheckpoint, saveCheckpoint } from './checkpoint-file.ts';
import { EventLog, freeName } from './event-log.ts';
import { codeOf, fault, shownPath } from './fault.ts';
import { jsonText, type Json } from './json.ts';
import { parseJson } from './json-file.ts';
import { isLock, lockFolder, type Lock } from './lock.ts';
import { makeFolder } from './make-folder.ts';
import { isThere, Place } from './place.ts';

const SETTINGS = 'run.json';
/** A run's log. */
export const EVENTS = 'events.jsonl';
/** The checkpoint of the best validation. */
const BEST = 'best.safetensors';
const STEP = /^step-(\d+)\.safetensors$/;

export interface RunOptions {
  readonly resume?: boolean; // continue an existing run; otherwise a folder with a run is refused
  readonly settings?: Json; // written to run.json when the run starts; default {}
  readonly renew?: boolean; // write the settings also when the run continues; default: those in run.json stay
  readonly keep?: number; // number of newest checkpoints that are kept, at least 1; default 2
  /**
   * Called with the checkpoint from which the run would continue, before anything in the folder is changed. Rejects if
   * the run must not continue.
   */
  readonly check?: (checkpoint: { readonly path: string; readonly step: number }) => Promise<void>;
  /** Receives one line if the folder or its files are moved or removed during the run. */
  readonly say?: (line: string) => void;
}

export interface RunFolder {
  /** The current path of the folder: it may be moved during the run. */
  readonly path: string;
  /** The settings of the run; those in run.json if it continues and `renew` is not set. */
  readonly settings: Json;
  /** The checkpoint from which the run continues; undefined: it starts at step 0. */
  readonly checkpoint: { readonly path: string; readonly step: number } | undefined;
  /** Errors of newer checkpoints that were skipped because they are damaged. */
  readonly damaged: readonly string[];
  /**
   * Appends an event. After a crash, an event with a `step` is kept only if there is a checkpoint of that step or a
   * later one.
   */
  append(event: object): void;
  /**
   * Makes sure that the folder, its settings and its log exist. A folder that was renamed is followed if the system
   * tells its new path. A folder that is gone is created again, under another name if something took its place; the
   * log is written again with all its events. Returns true if the checkpoints are gone.
   */
  keep(): Promise<boolean>;
  /**
   * Writes a checkpoint after the events so far, and returns its path. Append an event of the checkpoint's own step
   * before it.
   */
  save(checkpoint: CheckpointContent): Promise<string>;
  /** Writes the checkpoint of the best validation, in place of an earlier one, and returns its path. */
  saveBest(checkpoint: CheckpointContent): Promise<string>;
  /** Releases the folder for other processes. Always call it. */
  close(): Promise<void>;
}

/**
 * Creates a run folder, or opens an existing one to continue it. Rejects with a UserError if it exists and `resume` is
 * not set, if it is not a run folder, or if it is in use.
 */
export async function openRun(path: string, options: RunOptions = {}): Promise<RunFolder> {
  const { resume = false, settings = {}, renew = false, keep = 2, check, say = console.warn } = options;
  await makeFolder(path);
  await admit(path, resume);
  const lock = await lockFolder(path);
  try {
    await admit(path, resume); // checked again under the lock: another process may have started a run meanwhile
    const before = await readSettings(path),
      stored = renew && jsonText(before ?? null) !== jsonText(settings) ? undefined : before,
      { checkpoint, damaged } = await findCheckpoint(path);
    if (checkpoint) await check?.(checkpoint);
    await removeTemporaries(path);
    if (stored === undefined) await writeAtomic(join(path, SETTINGS), [Buffer.from(`${jsonText(settings, 2)}\n`)]);
    const events = await EventLog.open(join(path, EVENTS), checkpoint?.step);
    const held = new Held({ place: await Place.open(path), lock, events, settings: stored ?? settings, say });
    return {
      get path() {
        return held.path;
      },
      settings: stored ?? settings,
      checkpoint,
      damaged,
      append: (event) => events.append(event),
      keep: () => held.keep(),
      save: async (content) => {
        await held.keep();
        return save(held.path, content, events, keep);
      },
      saveBest: async (content) => {
        await held.keep();
        const file = join(held.path, BEST);
        await events.sync();
        await saveCheckpoint(file, content);
        return file;
      },
      close: () => held.close(),
    };
  } catch (error) {
    await lock.release();
    throw error;
  }
}

interface Holding {
  readonly place: Place;
  readonly lock: Lock;
  readonly events: EventLog;
  readonly settings: Json;
  readonly say: (line: string) => void;
}

/** The folder of a run in progress. */
class Held {
  readonly #events: EventLog;
  readonly #settings: Json;
  readonly #say: (line: string) => void;
  #place: Place;
  #lock: Lock;
  /** The path as shown to the user; a relative path stays relative. */
  #path: string;

  constructor({ place, lock, events, settings, say }: Holding) {
    this.#events = events;
    this.#settings = settings;
    this.#say = say;
    this.#place = place;
    this.#lock = lock;
    this.#path = place.path;
  }

  get path(): string {
    return this.#path;
  }

  async keep(): Promise<boolean> {
    const before = this.#path,
      found = await this.#place.find();
    if (found !== null && found !== before) {
      this.#path = found;
      this.#lock.follow(found);
      this.#say(`the run folder ${shownPath(before)} was moved to ${shownPath(found)}: the run continues there`);
    }
    let lost = found === null;
    if (found === null || !(await this.#isOwn(found))) {
      await this.#renew();
      lost = true;
    }
    if (!(await isThere(join(this.#path, SETTINGS))))
      await writeAtomic(join(this.#path, SETTINGS), [Buffer.from(`${jsonText(this.#settings, 2)}\n`)]);
    if ((await this.#events.keepAt(join(this.#path, EVENTS))) && !lost) {
      this.#say(
        `${shownPath(join(this.#path, EVENTS))} was removed or replaced: it is written again, with every event`,
      );
    }
    return lost || (await checkpointsIn(this.#path)).length === 0;
  }

  /**
   * Whether the folder still belongs to this run: it may have been emptied, and another run may have started in it.
   */
  async #isOwn(folder: string): Promise<boolean> {
    if (await this.#lock.isIn(folder)) return true;
    const names = await readdir(folder).catch((error: unknown) => {
      throw fault('read', folder, error);
    });
    if (
      !(await this.#events.isAt(join(folder, EVENTS))) &&
      names.some((name) => name === SETTINGS || name === EVENTS || STEP.test(name) || isLock(name))
    )
      return false;
    this.#lock = await lockFolder(folder);
    return true;
  }

  async #renew(): Promise<void> {
    const before = this.#path,
      taken = await isThere(before),
      path = taken ? freeName(before) : before;
    await makeFolder(path);
    const lock = await lockFolder(path);
    await this.#lock.release();
    await this.#place.close();
    this.#lock = lock;
    this.#place = await Place.open(path);
    this.#path = path;
    const now = taken ? `another folder now: the run continues in ${shownPath(path)}` : 'gone: it is created again';
    this.#say(`the run folder ${shownPath(before)} is ${now}, with its log; earlier checkpoints are lost`);
  }

  async close(): Promise<void> {
    await this.#events.close();
    await this.#place.find().catch(() => null); // if that fails, the lock is removed at its last known path
    await this.#lock.release();
    await this.#place.close();
  }
}

/** Checks early what `openRun` checks: throws its UserError if a run must not be written to this folder. */
export async function refuseRun(path: string, resume: boolean): Promise<void> {
  if (await isThere(path)) await admit(path, resume);
}

/** The settings of a run; undefined if there is no run. */
export const storedSettings = (path: string): Promise<Json | undefined> => readSettings(path);

/** The checkpoint at a path: the file itself, or the newest undamaged checkpoint of a run folder. */
export async function resolveCheckpoint(path: string): Promise<string> {
  const found = await stat(path).catch((error: unknown) => {
    throw fault('read', path, error);
  });
  if (!found.isDirectory()) return path;
  const { checkpoint, damaged } = await findCheckpoint(path);
  if (checkpoint !== undefined) return checkpoint.path;
  throw new UserError(
    `${shownPath(path)} contains no checkpoint${damaged.length > 0 ? ' that can be read' : ''}`,
    damaged[0] ?? 'name a checkpoint (.safetensors) or the --out folder of a run that has saved one',
  );
}

/** Whether a folder contains a checkpoint from which its run continues. */
export const hasCheckpoint = async (path: string): Promise<boolean> =>
  (await stat(path).catch(() => null)) !== null && (await findCheckpoint(path)).checkpoint !== undefined;

async function admit(path: string, resume: boolean): Promise<void> {
  const names = await readdir(path).catch((error: unknown) => {
    throw fault('read', path, error);
  });
  const isRun = names.some((name) => name === SETTINGS || name === BEST || STEP.test(name));
  if (isRun && !resume) {
    throw new UserError(
      `${shownPath(path)} already holds a run`,
      'add --resume to continue it, or choose another --out folder',
    );
  }
  const ours = (name: string): boolean => name === EVENTS || isLock(name) || isTemporary(name);
  const foreign = names.find((name) => !ours(name));
  if (!isRun && foreign !== undefined) {
    throw new UserError(
      `${shownPath(path)} is not a run folder, and it is not empty (it contains ${shownPath(foreign)})`,
      'choose another --out folder',
    );
  }
}

async function readSettings(path: string): Promise<Json | undefined> {
  const file = join(path, SETTINGS);
  const bytes = await readFile(file).catch((error: unknown) => {
    if (codeOf(error) === 'ENOENT') return null;
    throw fault('read', file, error);
  });
  return bytes === null ? undefined : (parseJson(bytes, file) as Json);
}

async function findCheckpoint(path: string): Promise<Pick<RunFolder, 'checkpoint' | 'damaged'>> {
  const damaged: string[] = [];
  for (const { file, step } of await checkpointsIn(path)) {
    try {
      const { meta, file: opened } = await loadCheckpoint(file);
      await opened.close();
      if (meta.step !== step)
        throw new UserError(`${shownPath(file)} holds step ${meta.step}, not the step it is named after`);
      return { checkpoint: { path: file, step }, damaged };
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      damaged.push(error.message);
    }
  }
  return { checkpoint: undefined, damaged };
}

/** Newest first. */
async function checkpointsIn(path: string): Promise<{ file: string; step: number }[]> {
  const names = await readdir(path).catch((error: unknown) => {
    throw fault('read', path, error);
  });
  return names
    .flatMap((name) => {
      const match = STEP.exec(name);
      return match === null ? [] : [{ file: join(path, name), step: Number(match[1]) }];
    })
    .sort((a, b) => b.step - a.step);
}

async function save(path: string, content: CheckpointContent, events: EventLog, keep: number): Promise<string> {
  const { step } = content.meta;
  const file = join(path, `step-${String(step).padStart(8, '0')}.safetensors`);
  await events.sync();
  await saveCheckpoint(file, content);
  const older = (await checkpointsIn(path)).filter((c) => c.step < step);
  for (const { file: old } of older.slice(Math.max(keep, 1) - 1)) await unlink(old).catch(() => undefined);
  return file;
}
