// Serialises what runs on a device: runs, draws, profiles. Memory that is released meanwhile is freed after the
// current one.

export class Turns {
  #taken = false;
  #running = false;
  readonly #waiting: (() => void)[] = [];
  readonly #after: (() => void)[] = [];

  /** Whether the `work` of a turn is running. */
  get running(): boolean {
    return this.#running;
  }

  /**
   * Waits for its turn, then calls `before` and passes its result to `work`. Both start before this returns if no turn
   * is taken.
   */
  async take<P, T>(before: () => P, work: (prepared: P) => Promise<T>): Promise<T> {
    if (this.#taken)
      await new Promise<void>((go) => {
        this.#waiting.push(go);
      });
    this.#taken = true;
    try {
      const prepared = before();
      this.#running = true;
      return await work(prepared);
    } finally {
      this.#running = false;
      this.#pass();
    }
  }

  /** Ends a turn. If somebody waits, `#taken` stays true, so that no new caller can overtake the waiting ones. */
  #pass(): void {
    for (const work of this.#after.splice(0)) work();
    const next = this.#waiting.shift();
    if (next) next();
    else this.#taken = false;
  }

  /** Calls `work` now, or after the current turn. */
  whenIdle(work: () => void): void {
    if (this.#running) this.#after.push(work);
    else work();
  }

  /** Resolves when no turn is taken and nobody waits. */
  async idle(): Promise<void> {
    while (this.#taken)
      await this.take(
        () => undefined,
        () => Promise.resolve(),
      );
  }
}
