// Moments of a training run at which an attack acts: while a checkpoint is written, while kernels are compiled,
// directly after the event of a step or a recompilation. In: a moment, the run's folders and events. Out: one call at
// that moment.
import { watch, type FSWatcher } from 'node:fs';
import fc from 'fast-check';

/**
 * `after` milliseconds after the nth event of the kind `at`. For 'time', `after` is a part of the run's time.
 */
export interface Moment {
  readonly at: 'time' | 'step' | 'saving' | 'recompiled' | 'compiling';
  readonly nth: number;
  readonly after: number;
}

/** What draws the fields of a moment; most: the largest `nth`. */
export const momentFields = (most: number): { [K in keyof Moment]: fc.Arbitrary<Moment[K]> } => ({
  at: fc.constantFrom<Moment['at'][]>('time', 'step', 'saving', 'saving', 'recompiled', 'compiling'),
  nth: fc.integer({ min: 1, max: most }),
  after: fc.nat(30),
});

export interface Watched {
  readonly out: string;
  /** The folder of compiled kernels. */
  readonly cache: string;
  /** The time of the whole run in ms. */
  readonly ms: number;
  /** A moment that has not come after this many steps comes then. */
  readonly latest?: number;
}

/** Calls `act` once, at the moment. */
export class MomentWatch {
  readonly #moment: Moment;
  readonly #act: () => void;
  readonly #latest: number;
  readonly #watchers: readonly FSWatcher[];
  #timer: ReturnType<typeof setTimeout> | undefined;
  #steps = 0;
  #recompiled = 0;
  #done = false;
  /** What the run does. */
  doing = 'while starting';

  /** The folders must exist. */
  constructor(moment: Moment, { out, cache, ms, latest = Infinity }: Watched, act: () => void) {
    const { at, nth, after } = moment;
    this.#moment = moment;
    this.#latest = latest;
    this.#act = act;
    if (at === 'time') this.#later((ms * (nth * 31 + after)) / 650);
    let saving = 0,
      compiling = 0;
    this.#watchers = [
      watch(out, (_, name) => {
        if (!/^\.step-.*\.tmp$/.test(name ?? '')) return;
        this.doing = 'while saving';
        // The watcher reports several changes for each file.
        if (++saving >= nth && at === 'saving') this.#now();
      }),
      watch(cache, () => {
        this.doing = 'while compiling';
        if (++compiling >= nth && at === 'compiling') this.#now();
      }),
    ];
  }

  /** A line of the run's output with --json. */
  line(text: string): void {
    const { at, nth, after } = this.#moment,
      { event } = JSON.parse(text) as { event: string };
    this.doing = event === 'start' || event === 'step' || event === 'checkpoint' ? 'while training' : `after ${event}`;
    if (event === 'step' && ++this.#steps === (at === 'step' ? nth : this.#latest)) this.#later(after);
    if (event === 'recompile' && ++this.#recompiled === 1 + (nth % 3) && at === 'recompiled') this.#later(after);
  }

  #later(ms: number): void {
    this.#timer ??= setTimeout(() => {
      this.#now();
    }, ms);
  }

  #now(): void {
    if (this.#done) return;
    this.#done = true;
    this.#act();
  }

  close(): void {
    this.#done = true;
    clearTimeout(this.#timer);
    this.#watchers.forEach((w) => {
      w.close();
    });
  }
}
