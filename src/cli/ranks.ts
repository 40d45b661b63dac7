// Commands over the ranks that mpirun or srun has started. Rank 0 prints, as a single process does. The others keep
// what they have to say in a log of their own, and print only an error that no other rank has.
import { messageOf } from '../base/errors.ts';
import { setTimeout as sleep } from 'node:timers/promises';
import { appendFileSync, mkdirSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import type { Ranks } from '../device/ranks.ts';
import { openRanks } from '../session/node.ts';
import { isAgreed } from '../session/ranks.ts';
import type { TrainEvent } from '../train/events.ts';
import type { Logger, RunInfo } from '../train/logger.ts';
import { EXIT, Exit } from './fail.ts';
import { ConfigError } from '../train/config-error.ts';

/** A failing rank waits so long before it says so: if rank 0 fails for the same reason, one message is enough. */
const AFTER_RANK_0 = 500; // ms

/** Runs a command on this process, or as one of many ranks (null: alone). An error ends all ranks. */
export async function overRanks<T>(command: (ranks: Ranks | null) => Promise<T>): Promise<T> {
  const ranks = await openRanks();
  if (!ranks) return command(null);
  writeLater(process.stdout);
  try {
    const made = await command(ranks);
    ranks.close();
    return made;
  } catch (error) {
    if (error instanceof Exit) {
      ranks.close();
      throw error;
    }
    if (isAgreed(error)) {
      if (ranks.rank === 0) throw error;
      throw new Exit(error instanceof ConfigError ? EXIT.usage : EXIT.failure);
    }
    if (ranks.rank > 0) await sleep(AFTER_RANK_0);
    return ranks.abort(error);
  }
}

/**
 * Open MPI's mpirun reads nothing more once it was asked to stop. Writes to it must not block then, so that the run is
 * still saved.
 */
function writeLater(stream: object): void {
  (stream as { readonly _handle?: { setBlocking?: (blocks: boolean) => void } })._handle?.setBlocking?.(false);
}

/** The log of a rank: ranks/rank-3.log in the run folder. A line that cannot be written is lost; the run continues. */
export class RankLog implements Logger {
  readonly #ranks: Ranks;
  readonly #began = performance.now();
  /** Lines from before the run folder was known. */
  #waiting: string[] = [];
  #path: string | null = null;

  constructor(ranks: Ranks) {
    this.#ranks = ranks;
    this.say(`rank ${ranks.rank} of ${ranks.size}, process ${process.pid} on ${hostname()}; ${ranks.description}`);
  }

  init({ folder }: RunInfo): void {
    const own = join(folder, 'ranks');
    try {
      mkdirSync(own, { recursive: true });
      this.#path = join(own, `rank-${this.#ranks.rank}.log`);
      appendFileSync(this.#path, this.#waiting.splice(0).join(''));
    } catch {
      /* the run folder cannot be written from this host */
    }
  }

  say(line: string): void {
    const text = `${((performance.now() - this.#began) / 1000).toFixed(3)} s  ${line}\n`;
    if (this.#path === null) this.#waiting.push(text);
    else
      try {
        appendFileSync(this.#path, text);
      } catch {
        /* as above */
      }
  }

  log(event: TrainEvent): void {
    switch (event.event) {
      case 'start':
        this.say(`${event.device}; from step ${event.resumed_from} to ${event.steps}`);
        break;
      case 'checkpoint':
        this.say(`step ${event.step} is saved`);
        break;
      case 'stopped':
      case 'done':
        this.say(`${event.event} at step ${event.step}; ${this.#messages()}`);
        break;
      default:
    }
  }

  finish(failure: Error | null): void {
    if (failure) this.say(`failed: ${messageOf(failure)}; ${this.#messages()}`);
  }

  #messages(): string {
    const { sent, waitedMs, exchanges } = this.#ranks.counters;
    return `${sent} bytes sent in ${exchanges} exchanges, ${(waitedMs / 1000).toFixed(1)} s of waiting for other ranks`;
  }
}
