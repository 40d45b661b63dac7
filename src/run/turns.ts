// What runs on a device, one after the other: runs, draws, profiles. Memory that is freed meanwhile is freed after the
// one under way.

export class Turns {
  #taken = false;
  #running = false;
  readonly #waiting: (() => void)[] = [];
  readonly #after: (() => void)[] = [];

  /** Whether `work` of somebody is under way. */
  get running(): boolean {
    return this.#running;
  }

  /**
   * Calls `before`, then `work` with what it gave, while no other turn is under way. Both start before this returns
   * where nobody has the turn.
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

  /** Whoever waits keeps the turn taken: nobody else can come between. */
  #pass(): void {
    for (const work of this.#after.splice(0)) work();
    const next = this.#waiting.shift();
    if (next) next();
    else this.#taken = false;
  }

  /** Now, or when what is under way is done. */
  whenIdle(work: () => void): void {
    if (this.#running) this.#after.push(work);
    else work();
  }

  /** Resolves when nothing is under way and nobody waits. */
  async idle(): Promise<void> {
    while (this.#taken)
      await this.take(
        () => undefined,
        () => Promise.resolve(),
      );
  }
}
