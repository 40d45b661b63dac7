// The threads of the native device, and the runs of tables on them.
import type { Driver } from './driver.ts';

/** Steps from..to of the table at an address. profile: address where times are added, or 0. */
export type Launch = readonly [table: number, from: number, to: number, profile: number];

/**
 * If its last run took less than this, a table runs on this thread, after a turn of the event loop. Handing a run to
 * another thread and back takes 0.1 to 0.2 ms, a third of a small model's step.
 */
const QUICK_MS = 2;

const turn = (): Promise<void> =>
  new Promise((resolve) => {
    setImmediate(resolve);
  });

export class NativePool {
  readonly #driver: Driver;
  readonly #pool: number;
  /** Runs in progress: all, and those on other threads. While there are some, a run on this thread would block. */
  #running = 0;
  #elsewhere = 0;
  #whenIdle: (() => void) | null = null;
  #closed = false;

  /** pool: a handle of `driver.poolCreate`. */
  constructor(driver: Driver, pool: number) {
    this.#driver = driver;
    this.#pool = pool;
  }

  /** expectedMs: how long it will probably take. */
  async run(launch: Launch, expectedMs = Infinity): Promise<{ readonly ms: number }> {
    if (this.#closed) throw new Error('the native device is closed');
    const quick = expectedMs < QUICK_MS;
    this.#running++;
    try {
      if (quick) await turn();
      const start = performance.now(),
        code =
          quick && this.#elsewhere === 0
            ? this.#driver.runNow(this.#pool, ...launch)
            : await this.#runElsewhere(launch);
      if (code !== 0) throw new Error(`the native driver returned ${code}`);
      return { ms: performance.now() - start };
    } finally {
      if (--this.#running === 0) this.#whenIdle?.();
    }
  }

  async #runElsewhere(launch: Launch): Promise<number> {
    this.#elsewhere++;
    try {
      return await this.#driver.run(this.#pool, ...launch);
    } finally {
      this.#elsewhere--;
    }
  }

  /** Ends the threads when nothing is running. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#running > 0)
      await new Promise<void>((resolve) => {
        this.#whenIdle = resolve;
      });
    this.#driver.poolDestroy(this.#pool);
  }
}
